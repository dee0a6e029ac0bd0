//! The archive and the complete fetcher with imitations of Google Cloud Storage and Azure.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::future::try_join_all;
use object_store::{ObjectStoreExt as _, path::Path};
use riverlock_schemas::{Mode, hash::Sha256Hash};

use super::{
    document,
    fetching::Bench,
    file,
    s3::{pdf, store},
    vendors::{Server, Vendor},
};
use crate::{
    Archive, InvoiceFetcherConfig,
    archive::{PART_BYTES, sweep},
};

const VENDORS: [Vendor; 2] = [Vendor::Google, Vendor::Azure];

fn archive(server: &Server) -> Archive {
    let mut config = InvoiceFetcherConfig::default();
    server.configure(&mut config);
    Archive::open(&config).unwrap()
}

#[tokio::test]
async fn buckets_of_every_vendor_store_a_document_once_with_a_condition() {
    for vendor in VENDORS {
        let server = Server::start(vendor).await;
        let archive = archive(&server);
        for (number, size) in [(1, 1_000), (2, PART_BYTES), (3, 2 * PART_BYTES + 7)] {
            let key = Archive::key(Mode::Live, file(number));
            let (document, other) = (pdf(b'x', size), pdf(b'y', size));
            store(&archive, file(number), &document).await.unwrap();
            assert!(server.get(&key).unwrap() == document, "{vendor:?} {size}");
            store(&archive, file(number), &document).await.expect("storing it again succeeds");
            let kept = store(&archive, file(number), &other).await.unwrap();
            assert_eq!((kept.key.as_str(), kept.sum.sha256), (key.as_str(), Sha256Hash::of(&document)), "{vendor:?}");
            assert!(server.get(&key).unwrap() == document, "{vendor:?} {size}");
        }
        assert_eq!(server.keys().len(), 3, "{vendor:?}: {:?}", server.keys());
        let unconditional = server.unconditional();
        assert!(unconditional.iter().all(|key| key.starts_with("a/b/staging/")), "{vendor:?}: {unconditional:?}");
        assert_eq!(unconditional.len(), 3, "the large document was staged three times");
    }
}

#[tokio::test]
async fn concurrent_workers_with_different_bytes_store_one_document() {
    for vendor in VENDORS {
        let server = Server::start(vendor).await;
        let archive = archive(&server);
        let same = vec![b'x'; 10_000];
        try_join_all((0..8).map(|_| store(&archive, file(1), &same))).await.unwrap();
        let others = (0..8_u8).map(|byte| {
            let archive = archive.clone();
            async move { store(&archive, file(2), &pdf(byte, 10_000)).await.unwrap() }
        });
        let ended = futures::future::join_all(others).await;
        assert!(ended.iter().all(|end| *end == ended[0]), "{vendor:?}: {ended:?}");
        assert_eq!(server.keys().len(), 2, "{vendor:?}");
        assert_eq!(server.unconditional(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn staged_uploads_of_interrupted_attempts_are_removed_from_buckets() {
    for vendor in VENDORS {
        let server = Server::start(vendor).await;
        let archive = archive(&server);
        store(&archive, file(1), b"document").await.unwrap();
        for name in ["x", "y"] {
            let left = Path::from(format!("staging/live/{}/{name}", file(2)));
            archive.store().put(&left, Bytes::from_static(b"half").into()).await.unwrap();
        }
        assert_eq!(sweep::sweep(&archive, DateTime::<Utc>::MAX_UTC).await.unwrap(), 2, "{vendor:?}");
        assert_eq!(server.keys(), [format!("a/b/{}", Archive::key(Mode::Live, file(1)))]);
    }
}

#[tokio::test]
async fn the_complete_fetcher_stores_into_buckets_of_every_vendor() {
    for vendor in VENDORS {
        let (server, mut bench) = (Server::start(vendor).await, Bench::new().await);
        server.configure(&mut bench.config);
        bench.announce(0..20).await;
        bench.start();
        bench.until("SELECT count(*) FROM invoices WHERE state = 'stored'", 20).await;
        bench.stop().await;
        for number in 0..20 {
            let kept = server.get(&Archive::key(Mode::Test, file(number))).unwrap();
            assert!(kept == document(file(number)), "{vendor:?}");
        }
        assert_eq!(server.keys().len(), 20);
    }
}
