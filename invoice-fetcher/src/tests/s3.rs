//! The archive and the complete fetcher with a third-party S3 server.

use std::path::PathBuf;

use bytes::Bytes;
use futures::future::try_join_all;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use riverlock_runtime::Secret;
use riverlock_schemas::{FileId, Mode, hash::Sha256Hash};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;

use super::{document, fetching::Bench, file};
use crate::{
    Archive, ArchiveError, InvoiceFetcherConfig,
    archive::{PART_BYTES, pdf::DocumentDigest, upload::ArchivedDocument},
};

pub(super) const BUCKET: &str = "documents";
pub(super) const KEY_ID: &str = "canary-key-id";
pub(super) const SECRET: &str = "canary-secret";

/// An S3 server that stores in a directory. It ends with the test's runtime.
pub(super) struct Server {
    pub(super) port: u16,
    folder: tempfile::TempDir,
}

impl Server {
    #[expect(clippy::disallowed_methods, reason = "the server ends with the test")]
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(folder.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let server = Builder::new(TokioExecutor::new());
                    drop(server.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { port, folder }
    }

    /// Configures the server's bucket as the archive.
    fn configure(&self, config: &mut InvoiceFetcherConfig) {
        config.store = format!("s3://{BUCKET}/a/b").parse().unwrap();
        for (key, value) in [
            ("aws_access_key_id", KEY_ID),
            ("aws_secret_access_key", SECRET),
            ("aws_region", "eu-central-1"),
            ("aws_endpoint", &format!("http://127.0.0.1:{}", self.port)),
            ("aws_allow_http", "true"),
        ] {
            config.store_options.insert(key.to_owned(), Secret::new(value));
        }
    }

    fn archive(&self) -> Archive {
        let mut config = InvoiceFetcherConfig::default();
        self.configure(&mut config);
        Archive::open(&config).unwrap()
    }

    fn object(&self, key: &str) -> PathBuf {
        self.folder.path().join(BUCKET).join("a/b").join(key)
    }
}

/// A PDF of `size` bytes.
pub(super) fn pdf(filling: u8, size: usize) -> Vec<u8> {
    let (begin, end) = (b"%PDF-1.4\n".as_slice(), b"\n%%EOF\n".as_slice());
    [begin, &vec![filling; size - begin.len() - end.len()], end].concat()
}

pub(super) async fn store(
    archive: &Archive,
    file_id: FileId,
    document: &[u8],
) -> Result<ArchivedDocument, ArchiveError> {
    let checked = DocumentDigest { sha256: Sha256Hash::of(document), size_bytes: document.len() as u64 };
    let mut upload = archive.upload(Mode::Live, file_id);
    for chunk in document.chunks(1 << 16) {
        upload.write(Bytes::copy_from_slice(chunk)).await?;
    }
    upload.publish(&checked, None).await
}

#[tokio::test]
async fn a_bucket_stores_a_document_of_any_size_once() {
    let server = Server::start().await;
    let archive = server.archive();
    for (number, size) in [(1, 1_000), (2, PART_BYTES), (3, 2 * PART_BYTES + 7)] {
        let key = Archive::key(Mode::Live, file(number));
        let (document, other) = (pdf(b'x', size), pdf(b'y', size));
        store(&archive, file(number), &document).await.unwrap();
        assert!(std::fs::read(server.object(&key)).unwrap() == document, "{size}");
        store(&archive, file(number), &document).await.expect("storing it again succeeds");
        let kept = store(&archive, file(number), &other).await.unwrap();
        assert_eq!((kept.key.as_str(), kept.sum.sha256), (key.as_str(), Sha256Hash::of(&document)));
        let expected = (Sha256Hash::of(&document), size as u64);
        assert_eq!(archive.digest(&key).await.unwrap(), expected, "{size}");
    }
    let staged: Vec<_> = super::files(&server.object("staging"));
    assert_eq!(staged, Vec::<PathBuf>::new(), "only the documents remain");
}

#[tokio::test]
async fn concurrent_workers_with_the_same_document_all_succeed() {
    let server = Server::start().await;
    let archive = server.archive();
    let document = vec![b'x'; 10_000];
    try_join_all((0..8).map(|_| store(&archive, file(1), &document))).await.unwrap();
    assert!(std::fs::read(server.object(&Archive::key(Mode::Live, file(1)))).unwrap() == document);
}

#[tokio::test]
async fn the_complete_fetcher_stores_into_a_bucket() {
    let (server, mut bench) = (Server::start().await, Bench::new().await);
    server.configure(&mut bench.config);
    bench.announce(0..20).await;
    bench.start();
    bench.until("SELECT count(*) FROM invoices WHERE state = 'stored'", 20).await;
    bench.stop().await;
    for number in 0..20 {
        let kept = std::fs::read(server.object(&Archive::key(Mode::Test, file(number)))).unwrap();
        assert_eq!(kept, document(file(number)));
    }
}
