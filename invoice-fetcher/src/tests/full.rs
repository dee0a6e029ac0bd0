//! A full disk: no document is discarded or partially visible, and all are stored when there is space again.
//!
//! The fetcher runs in a child process on a small tmpfs in its own mount namespace. If mounting is not permitted even in a user
//! namespace, a limit on the size of files is used instead, which fails at the same places with another error.

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

/// Size of the small disk, and its size after it is enlarged, MiB.
const DISK_MIB: u32 = 8;
const LARGER_MIB: u32 = 64;

/// A document that is larger than the small disk, bytes.
const LARGE: usize = 12 << 20;

const NAME: &str = "tests::full::a_full_disk_loses_no_document_and_leaves_no_partial_one";

/// How space is limited.
#[derive(Clone, Copy)]
enum Disk {
    /// A small file system.
    Mounted,
    /// A limit on the size of files.
    Limited,
}

impl Disk {
    /// The kernel's error when there is no space.
    fn full(self) -> &'static str {
        match self {
            Self::Mounted => "SELECT count(*) FROM invoices WHERE last_error LIKE 'store: %No space left on device%'",
            Self::Limited => "SELECT count(*) FROM invoices WHERE last_error LIKE 'store: %File too large%'",
        }
    }

    /// Leaves no space at all.
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

    /// Leaves space for all documents except the large one.
    fn free(self, folder: &Path) {
        match self {
            Self::Limited => limit(Some(u64::from(DISK_MIB) << 20)),
            Self::Mounted => std::fs::remove_file(folder.join("ballast")).unwrap(),
        }
    }

    /// Leaves space for all documents.
    fn grow(self, folder: &Path) {
        match self {
            Self::Limited => limit(None),
            Self::Mounted => {
                let options = format!("remount,size={LARGER_MIB}m");
                let status = Command::new("mount").args(["-o", &options]).arg(folder).status().unwrap();
                assert!(status.success(), "the disk could not be enlarged");
            }
        }
    }
}

fn limit(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum }).unwrap();
}

/// A command prefix that runs a command with a small disk mounted at a directory, and how space is limited.
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
    eprintln!("mounting is not permitted here: using a limit on the size of files instead of a full disk");
    // Exceeding the limit would end the process with SIGXFSZ.
    (words(&["sh", "-c", "trap '' XFSZ && exec \"$@\"", "sh"]), Disk::Limited)
}

#[tokio::test]
async fn a_full_disk_loses_no_document_and_leaves_no_partial_one() {
    if let Some(argument) = child::argument() {
        let (disk, rest) = argument.split_once(' ').unwrap();
        let (folder, url) = rest.split_once(' ').unwrap();
        let disk = if disk == "mounted" { Disk::Mounted } else { Disk::Limited };
        return run_out_of_space(disk, Path::new(folder), url).await;
    }
    let (database, folder) = (Database::create().await, tempfile::tempdir().unwrap());
    let (wrapper, disk) = wrapper(folder.path());
    let disk = if matches!(disk, Disk::Mounted) { "mounted" } else { "limited" };
    let argument = format!("{disk} {} {}", folder.path().display(), database.config.url.expose());
    child::run(child::command(wrapper, NAME, &argument)).await;
    assert_eq!(files(folder.path()), Vec::<std::path::PathBuf>::new(), "the small disk was visible only to the child");
}

/// Downloads 20 small documents and a large one while the disk is full, has space for some, and has space for all.
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
    // The large document is retried, fills the disk every time, and never becomes visible.
    let attempts = "SELECT attempts::bigint FROM invoices WHERE state = 'due'";
    let goal = bench.count(attempts).await + 3;
    let started = Instant::now();
    while bench.count(attempts).await < goal {
        assert!(started.elapsed() < PATIENCE, "it is not retried");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((bench.count(disk.full()).await, stored(&bench)), (1, 20));

    disk.grow(folder);
    bench.until("SELECT count(*) FROM invoices WHERE state = 'due'", 0).await;
    bench.stop().await;
    let path = bench.folder.path().join(Archive::key(Mode::Test, file(50)));
    assert!(std::fs::read(&path).unwrap() == large, "the large document is complete");
    assert_eq!(bench.count("SELECT count(*) FROM outbox WHERE kind = 'invoice.stored'").await, 21);
    assert_eq!(files(bench.folder.path()).len(), 21, "no leftovers remain");
    assert_eq!(bench.count("SELECT count(*) FROM invoices WHERE state = 'stored'").await, 21);
}

/// Number of documents visible in the archive.
fn stored(bench: &Bench) -> usize {
    let documents = bench.folder.path().join("invoices");
    if documents.exists() {
        files(&documents).iter().filter(|path| !path.to_string_lossy().contains('#')).count()
    } else {
        0
    }
}
