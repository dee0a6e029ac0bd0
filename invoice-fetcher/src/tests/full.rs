//! A full disk: nothing is given up, nothing is half there, and all is stored once there is room.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, local::LocalFileSystem, path::Path,
};

use super::{fetching::Bench, files};
use crate::{Archive, worker::Fetcher};

/// What the kernel says when there is no room (ENOSPC).
const NO_SPACE: i32 = 28;

/// A folder on a disk that is full until it is told otherwise.
#[derive(Debug)]
struct Disk {
    folder: LocalFileSystem,
    has_room: Arc<AtomicBool>,
}

impl Disk {
    fn take_room(&self) -> Result<()> {
        if self.has_room.load(Ordering::Relaxed) {
            return Ok(());
        }
        let source = Box::new(io::Error::from_raw_os_error(NO_SPACE));
        Err(object_store::Error::Generic { store: "disk", source })
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("disk")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Disk {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.take_room()?;
        self.folder.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.take_room()?;
        self.folder.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.folder.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.folder.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.folder.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.folder.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.take_room()?;
        self.folder.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_full_disk_costs_no_document_and_leaves_no_half_one() {
    let bench = Bench::new().await;
    bench.announce(0..20).await;
    let mut fetcher = Fetcher::new(bench.config.clone(), &bench.database.config, bench.context.clone()).unwrap();
    let has_room = Arc::new(AtomicBool::new(false));
    let folder = LocalFileSystem::new_with_prefix(bench.folder.path()).unwrap().with_fsync(true);
    let disk = Disk { folder, has_room: Arc::clone(&has_room) };
    fetcher.use_archive(Archive::new(Arc::new(disk), 64));
    bench.context.shutdown.spawn("invoice-downloads", Arc::new(fetcher).run());

    bench.until("SELECT count(*) FROM invoices WHERE last_error LIKE 'store: %No space left%'", 20).await;
    assert_eq!(bench.count("SELECT count(*) FROM invoices WHERE state <> 'due'").await, 0);
    assert_eq!(files(bench.folder.path()), Vec::<std::path::PathBuf>::new());

    has_room.store(true, Ordering::Relaxed);
    bench.until("SELECT count(*) FROM invoices WHERE state = 'due'", 0).await;
    bench.stop().await;
    bench.check(0..20).await;
}
