//! A proxy before PostgreSQL that withholds answers.

use riverlock_ledger::PostgresConfig;
use riverlock_runtime::Secret;
use riverlock_tests::Database;
use sqlx::postgres::PgConnectOptions;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// A proxy before PostgreSQL whose answers can be withheld while its connections stay open.
pub(crate) struct Proxy {
    address: std::net::SocketAddr,
    /// Whether answers are passed on.
    pub(crate) open: watch::Sender<bool>,
}

impl Proxy {
    /// A proxy before a database, and the configuration that uses it.
    pub(crate) async fn to_database(database: &Database) -> (Self, PostgresConfig) {
        let options = database.config.options().unwrap();
        let proxy = Self::to(options.get_port(), false).await;
        Self::with_config(proxy, &options)
    }

    /// A proxy that withholds all answers from the first named statement on, except the one that names the session:
    /// connections are made, and then nothing is answered.
    pub(crate) async fn silent_at_first_statement(database: &Database) -> (Self, PostgresConfig) {
        let options = database.config.options().unwrap();
        let proxy = Self::to(options.get_port(), true).await;
        Self::with_config(proxy, &options)
    }

    fn with_config(proxy: Self, options: &PgConnectOptions) -> (Self, PostgresConfig) {
        let url = format!("postgres://riverlock:riverlock@{}/{}", proxy.address, options.get_database().unwrap());
        (proxy, PostgresConfig { url: Secret::new(url), ..PostgresConfig::default() })
    }

    #[expect(clippy::disallowed_methods, reason = "the task ends with the test")]
    async fn to(port: u16, silent_at_first_statement: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, _) = watch::channel(true);
        let (watched, cut) = (open.subscribe(), open.clone());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (mut open, cut) = (watched.clone(), cut.clone());
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    let (mut from_client, mut to_client) = client.split();
                    let (mut from_server, mut to_server) = server.split();
                    let requests = async {
                        let mut bytes = vec![0; 64 * 1024];
                        loop {
                            let read = from_client.read(&mut bytes).await?;
                            let text = String::from_utf8_lossy(&bytes[..read]).replace("-- session_name", "");
                            if silent_at_first_statement && text.contains("-- ") {
                                cut.send_replace(false);
                            }
                            if read == 0 {
                                return Ok::<_, std::io::Error>(());
                            }
                            to_server.write_all(&bytes[..read]).await?;
                        }
                    };
                    let answers = async {
                        let mut bytes = vec![0; 64 * 1024];
                        loop {
                            let read = from_server.read(&mut bytes).await?;
                            // The answer is withheld, and the connection stays open.
                            let closed = open.wait_for(|open| *open).await.is_err();
                            if closed || read == 0 {
                                return Ok::<_, std::io::Error>(());
                            }
                            to_client.write_all(&bytes[..read]).await?;
                        }
                    };
                    tokio::select! {
                        _ = requests => {}
                        _ = answers => {}
                    }
                });
            }
        });
        Self { address, open }
    }
}
