//! A disk that is really full: nothing is given up, nothing is half there, and all is stored once there is room.
//!
//! The fetcher runs in a process of its own, on a small file system in memory that only that process sees and that ends with
//! it. Who may mount none, not even in a namespace of one's own, gets a limit on the size of files, which fails in the same
//! places with another error.

use std::{
    fs::File,
    io::{ErrorKind, Write as _},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use riverlock_schemas::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    child,
    database::Database,
    fetching::{Bench, PATIENCE},
    file, files,
    server::{Answer, Description},
};
use crate::Archive;

/// Size of the small disk, MiB, and what it grows to.
const DISK_MIB: u32 = 8;
const LARGER_MIB: u32 = 64;

/// A document that is larger than the small disk, bytes.
const LARGE: usize = 12 << 20;

const NAME: &str = "tests::full::a_full_disk_costs_no_document_and_leaves_no_half_one";

/// How a disk is made small.
#[derive(Clone, Copy)]
enum Disk {
    /// It is small.
    Mounted,
    /// No file may be large.
    Limited,
}

impl Disk {
    /// What the kernel says when there is no room.
    fn full(self) -> &'static str {
        match self {
            Self::Mounted => "SELECT count(*) FROM invoices WHERE last_error LIKE 'store: %No space left on device%'",
            Self::Limited => "SELECT count(*) FROM invoices WHERE last_error LIKE 'store: %File too large%'",
        }
    }

    /// Leaves no room for a single byte.
    fn fill(self, folder: &Path) {
        match self {
            Self::Limited => limit(Some(0)),
            Self::Mounted => {
                let mut ballast = File::create(folder.join("ballast")).unwrap();
                let mut piece = vec![0; 1 << 20];
                while !piece.is_empty() {
                    match ballast.write(&piece) {
                        Ok(_) => {}
                        Err(error) if error.kind() == ErrorKind::StorageFull => piece.truncate(piece.len() / 2),
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
    }

    /// Leaves room for all but the large document.
    fn free(self, folder: &Path) {
        match self {
            Self::Limited => limit(Some(u64::from(DISK_MIB) << 20)),
            Self::Mounted => std::fs::remove_file(folder.join("ballast")).unwrap(),
        }
    }

    /// Leaves room for everything.
    fn grow(self, folder: &Path) {
        match self {
            Self::Limited => limit(None),
            Self::Mounted => {
                let options = format!("remount,size={LARGER_MIB}m");
                let status = Command::new("mount").args(["-o", &options]).arg(folder).status().unwrap();
                assert!(status.success(), "the disk does not grow");
            }
        }
    }
}

fn limit(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum }).unwrap();
}

/// Words that run the words after them on a small disk at a folder, and whether the disk is one.
fn wrapper(folder: &Path) -> (Vec<String>, Disk) {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mount = format!("mount -t tmpfs -o size={DISK_MIB}m tmpfs '{}' && exec \"$@\"", folder.display());
    for namespace in ["-m", "-Urm"] {
        let wrapper = words(&["unshare", namespace, "sh", "-c", &mount, "sh"]);
        let probe = Command::new(&wrapper[0]).args(&wrapper[1..]).arg("true").output();
        if probe.is_ok_and(|output| output.status.success()) {
            return (wrapper, Disk::Mounted);
        }
    }
    eprintln!("nothing can be mounted here: a limit on the size of files stands in for a full disk");
    // The signal that comes with the limit would end the process.
    (words(&["sh", "-c", "trap '' XFSZ && exec \"$@\"", "sh"]), Disk::Limited)
}

#[tokio::test]
async fn a_full_disk_costs_no_document_and_leaves_no_half_one() {
    if let Some(told) = child::told() {
        let (disk, rest) = told.split_once(' ').unwrap();
        let (folder, url) = rest.split_once(' ').unwrap();
        let disk = if disk == "mounted" { Disk::Mounted } else { Disk::Limited };
        return run_out_of_space(disk, Path::new(folder), url).await;
    }
    let (database, folder) = (Database::create().await, tempfile::tempdir().unwrap());
    let (wrapper, disk) = wrapper(folder.path());
    let disk = if matches!(disk, Disk::Mounted) { "mounted" } else { "limited" };
    let told = format!("{disk} {} {}", folder.path().display(), database.config.url.expose());
    child::run(child::command(wrapper, NAME, &told)).await;
    assert_eq!(files(folder.path()), Vec::<std::path::PathBuf>::new(), "the small disk was the child's own");
}

/// The life of 20 small documents and a large one while the disk is full, has room for some, and has room for all.
async fn run_out_of_space(disk: Disk, folder: &Path, url: &str) {
    let mut bench = Bench::over(Database::at(url), tempfile::tempdir_in(folder).unwrap()).await;
    bench.config.document_bytes_max = 2 * LARGE as u64;
    bench.config.retry.wait_max = Duration::from_millis(500);
    let large = [b"%PDF-1.4\n".as_slice(), &vec![b'x'; LARGE], b"\n%%EOF\n"].concat();
    bench.server.answer(file(50), [Answer::Body("application/pdf", large.clone())]);
    bench.server.describe(file(50), Description::Text("{}".to_owned()));
    disk.fill(folder);
    bench.announce((0..20).chain([50])).await;
    bench.start();

    bench.until(disk.full(), 21).await;
    assert_eq!(bench.count("SELECT count(*) FROM invoices WHERE state <> 'due'").await, 0);
    assert_eq!(bench.count("SELECT count(*) FROM outbox").await, 0);
    assert_eq!(stored(&bench), 0);

    disk.free(folder);
    bench.until("SELECT count(*) FROM invoices WHERE state = 'stored'", 20).await;
    // The large one is tried again and again, fills the disk every time, and never counts.
    let attempts = "SELECT attempts::bigint FROM invoices WHERE state = 'due'";
    let goal = bench.count(attempts).await + 3;
    let started = Instant::now();
    while bench.count(attempts).await < goal {
        assert!(started.elapsed() < PATIENCE, "it is not tried again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((bench.count(disk.full()).await, stored(&bench)), (1, 20));

    disk.grow(folder);
    bench.until("SELECT count(*) FROM invoices WHERE state = 'due'", 0).await;
    bench.stop().await;
    let path = bench.folder.path().join(Archive::key(Mode::Test, file(50)));
    assert!(std::fs::read(&path).unwrap() == large, "the large document is whole");
    assert_eq!(bench.count("SELECT count(*) FROM outbox WHERE kind = 'invoice.stored'").await, 21);
    assert_eq!(files(bench.folder.path()).len(), 21, "no leftover is kept");
    assert_eq!(bench.count("SELECT count(*) FROM invoices WHERE state = 'stored'").await, 21);
}

/// Documents that can be seen in the archive.
fn stored(bench: &Bench) -> usize {
    let documents = bench.folder.path().join("invoices");
    if documents.exists() {
        files(&documents).iter().filter(|path| !path.to_string_lossy().contains('#')).count()
    } else {
        0
    }
}
