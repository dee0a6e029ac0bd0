//! A raw socket server that sends any bytes, including invalid responses, and records all received bytes.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};
use url::Url;

use super::{document, file};

/// A certificate and its private key.
pub(super) type Identity = (&'static str, &'static str);

/// A response.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    /// Sent first.
    pub(super) begin: Vec<u8>,
    /// Sent repeatedly after it until the client disconnects; empty to close the connection.
    pub(super) filling: Vec<u8>,
}

impl Reply {
    /// A complete response, then the connection is closed.
    pub(super) fn new(status: u16, headers: &str, body: &[u8]) -> Self {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n");
        Self { begin: [head.as_bytes(), body].concat(), filling: Vec::new() }
    }

    /// An endless response.
    pub(super) fn endless(begin: &str, filling: &[u8]) -> Self {
        Self { begin: begin.as_bytes().to_vec(), filling: filling.to_vec() }
    }

    /// Digital River's response for file 1.
    pub(super) fn correct_for(path: &str) -> Self {
        let document = document(file(1));
        if path.ends_with("/content") {
            return Self::new(200, "Content-Type: application/pdf\r\n", &document);
        }
        Self::new(200, "", format!("{{\"size\":{},\"type\":\"pdf\"}}", document.len()).as_bytes())
    }
}

/// The response to a request, by its path.
type Replies = dyn Fn(&str) -> Reply + Send + Sync;

/// The server. It ends with the test's runtime.
pub(super) struct Station {
    pub(super) address: SocketAddr,
    /// The received bytes by connection.
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Station {
    /// Starts a server on a port of 127.0.0.1.
    pub(super) async fn start(replies: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), None, replies).await
    }

    /// Starts a server at an address. With an identity it uses TLS, and records the decrypted bytes.
    #[expect(clippy::disallowed_methods, reason = "the station ends with the test")]
    pub(super) async fn start_at(
        address: SocketAddr,
        identity: Option<Identity>,
        replies: impl Fn(&str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tls, replies): (_, Arc<Replies>) = (identity.map(acceptor), Arc::new(replies));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = {
                    let mut all = all.lock().unwrap();
                    all.push(Vec::new());
                    all.len() - 1
                };
                tokio::spawn(talk(stream, tls.clone(), Arc::clone(&replies), Arc::clone(&all), number));
            }
        });
        Self { address, seen }
    }

    /// Its base URL.
    pub(super) fn base(&self) -> Url {
        Url::parse(&format!("http://{}", self.address)).unwrap()
    }

    /// Number of accepted connections.
    pub(super) fn connections(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// The headers of received requests.
    pub(super) fn heads(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|bytes| !bytes.is_empty()).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }
}

fn acceptor((certificate, key): Identity) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    TlsAcceptor::from(Arc::new(config.with_single_cert(vec![certificate], key).unwrap()))
}

async fn talk(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    replies: Arc<Replies>,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    number: usize,
) {
    // A client may abort the handshake.
    let ended = match tls {
        None => answer(stream, &*replies, &seen, number).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => answer(stream, &*replies, &seen, number).await,
            Err(error) => Err(error),
        },
    };
    drop(ended);
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    replies: &Replies,
    seen: &Mutex<Vec<Vec<u8>>>,
    number: usize,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await?;
        head.push(byte);
        seen.lock().unwrap()[number].push(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let reply = replies(head.split(' ').nth(1).unwrap_or_default());
    stream.write_all(&reply.begin).await?;
    while !reply.filling.is_empty() {
        stream.write_all(&reply.filling).await?;
    }
    stream.shutdown().await
}
