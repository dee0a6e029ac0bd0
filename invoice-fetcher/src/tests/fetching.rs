//! The complete fetcher: queue, hostile server, local archive.

use std::time::{Duration, Instant};

use riverlock_runtime::{Context, Secret};
use riverlock_schemas::{FileId, Mode, hash::Sha256Hash};
use tempfile::TempDir;

use super::{
    config,
    database::Database,
    document, file, files,
    queueing::{announce, announced},
    server::{Answer, ReceivedRequest, Server},
};
use crate::{
    Archive, InvoiceFetcherConfig,
    fetch::worker::Fetcher,
    problem::Problem,
    queue::{LeasedDocument, retry, view::Filter},
};

/// Time limit for a test's wait.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Bench {
    pub(super) database: Database,
    pub(super) server: Server,
    pub(super) folder: TempDir,
    pub(super) config: InvoiceFetcherConfig,
    pub(super) context: Context,
}

/// A row of `invoices`.
#[derive(Debug, PartialEq, sqlx::FromRow)]
struct Row {
    state: String,
    attempts: i32,
    last_error: Option<String>,
    object_key: Option<String>,
    sha256: Option<Vec<u8>>,
}

impl Bench {
    pub(super) async fn new() -> Self {
        Self::over(Database::create().await, tempfile::tempdir().unwrap()).await
    }

    pub(super) async fn over(database: Database, folder: TempDir) -> Self {
        let server = Server::start().await;
        let mut config = config(&server.base, folder.path());
        config.retry.wait_first = Duration::from_millis(20);
        Self { database, server, folder, config, context: Context::new() }
    }

    pub(super) async fn announce(&self, numbers: impl IntoIterator<Item = u128>) {
        announce(&self.database, numbers.into_iter().map(announced), self.context.clock.now()).await;
    }

    pub(super) fn start(&self) {
        crate::fetch(self.config.clone(), &self.database.config, &self.context).unwrap();
    }

    async fn row(&self, file_id: FileId) -> Row {
        sqlx::query_as("SELECT state, attempts, last_error, object_key, sha256 FROM invoices WHERE file_id = $1")
            .bind(file_id.as_uuid())
            .fetch_one(&self.database.pool)
            .await
            .unwrap()
    }

    pub(super) async fn count(&self, what: &'static str) -> i64 {
        sqlx::query_scalar(what).fetch_one(&self.database.pool).await.unwrap()
    }

    pub(super) async fn until(&self, what: &'static str, expected: i64) {
        let started = Instant::now();
        while self.count(what).await != expected {
            assert!(started.elapsed() < PATIENCE, "{what} is {}, not {expected}", self.count(what).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn stop(&self) {
        self.context.shutdown.stop();
        assert!(self.context.shutdown.wait(PATIENCE).await);
    }

    /// Checks that rows, messages and files are consistent and every stored document is the served one.
    pub(super) async fn check(&self, stored: impl IntoIterator<Item = u128>) {
        let stored: Vec<u128> = stored.into_iter().collect();
        for number in &stored {
            let (row, expected) = (self.row(file(*number)).await, document(file(*number)));
            assert_eq!(row.state, "stored", "{row:?}");
            assert_eq!(row.sha256.as_deref(), Some(Sha256Hash::of(&expected).as_bytes().as_slice()));
            let path = self.folder.path().join(row.object_key.unwrap());
            assert_eq!(std::fs::read(path).unwrap(), expected);
        }
        assert_eq!(files(self.folder.path()).len(), stored.len());
        let stored = i64::try_from(stored.len()).unwrap();
        assert_eq!(self.count("SELECT count(*) FROM outbox WHERE kind = 'invoice.stored'").await, stored);
        assert_eq!(self.count("SELECT count(*) FROM invoices WHERE state = 'stored'").await, stored);
    }
}

const DUE: &str = "SELECT count(*) FROM invoices WHERE state = 'due'";

#[tokio::test]
async fn every_document_is_stored_once_despite_temporary_problems() {
    let bench = Bench::new().await;
    let html = Answer::Body("text/html", b"<html>".to_vec());
    for (number, trouble) in [
        vec![Answer::Status(404), Answer::Status(404)],
        vec![Answer::Status(500), Answer::Status(503)],
        vec![Answer::Cut(30), Answer::Short(30)],
        vec![html, Answer::Redirect(302, "http://127.0.0.1:9/".to_owned())],
        vec![Answer::Wait(503, "1")],
        vec![Answer::Wait(429, "1")],
        vec![Answer::Claimed(1_000, b"%PDF".to_vec()), Answer::Encoded("gzip")],
    ]
    .into_iter()
    .enumerate()
    {
        bench.server.answer(file(number as u128), trouble.into_iter().chain([Answer::Document]));
    }
    bench.server.answer(file(100), [Answer::Status(410)]);
    bench.server.answer(file(101), [Answer::Endless]);
    bench.announce((0..60).chain([100, 101])).await;
    bench.start();
    bench.until(DUE, 0).await;
    bench.stop().await;
    bench.check(0..60).await;
    // An attempt does not count if the other file's rate limit interrupts it between the two spellings.
    assert!((2..=3).contains(&bench.row(file(0)).await.attempts));
    assert!(bench.row(file(100)).await.last_error.unwrap().starts_with("gone: "));
    assert!(bench.row(file(101)).await.last_error.unwrap().starts_with("too_large: "));
}

#[tokio::test]
async fn a_file_is_downloaded_with_or_without_a_prefix_in_its_id() {
    let mut bench = Bench::new().await;
    bench.config.workers = 1;
    bench.server.prefix((10..40).map(file));
    bench.announce(0..60).await;
    bench.start();
    bench.until(DUE, 0).await;
    bench.stop().await;
    bench.check(0..60).await;
    assert_eq!(bench.count("SELECT max(attempts)::bigint FROM invoices").await, 1);
    let requests: Vec<String> = bench.server.requests().into_iter().map(|request| request.path).collect();
    let is_plain = |path: &&String| !path.contains("/file_");
    let (plain, all) = (requests.iter().filter(is_plain).count(), requests.len());
    // Two requests per file, and one more if the spelling differs from that of the previous file.
    assert!((121..140).contains(&all) && (60..80).contains(&plain), "{plain} of {all}: {requests:?}");

    // A file that is found with neither spelling counts as one attempt.
    bench.server.answer(file(100), [Answer::Status(404)]);
    let fetcher = Fetcher::new(bench.config.clone(), &bench.database.config, Context::new()).unwrap();
    let attempt = fetcher.attempt(&LeasedDocument::for_test(file(100), Mode::Test), Instant::now() + PATIENCE).await;
    assert_eq!(attempt, Err(Problem::NotFound));
}

#[tokio::test]
async fn two_processes_share_the_queue() {
    let bench = Bench::new().await;
    bench.announce(0..100).await;
    for _ in 0..100 {
        bench.announce([0]).await;
    }
    bench.start();
    let other = Context::new();
    crate::fetch(bench.config.clone(), &bench.database.config, &other).unwrap();
    bench.until(DUE, 0).await;
    bench.stop().await;
    other.shutdown.stop();
    assert!(other.shutdown.wait(PATIENCE).await);
    bench.check(0..100).await;
    assert_eq!(bench.server.requests().len(), 200, "no document is downloaded twice");
}

#[tokio::test]
async fn a_rejected_key_pauses_downloads_without_counting_attempts() {
    let mut bench = Bench::new().await;
    bench.config.test.as_mut().unwrap().api_key = Secret::new("old");
    bench.config.workers = 4;
    bench.announce(0..50).await;
    bench.start();
    bench.until("SELECT least(count(*), 1) FROM invoices WHERE last_error LIKE 'key_refused%'", 1).await;
    // The request for a random file id, which decides, may be one of several requests at the same time.
    let decided = |request: &ReceivedRequest| (0..50).all(|number| !request.path.contains(&file(number).to_string()));
    let started = Instant::now();
    while !bench.server.requests().iter().any(decided) {
        assert!(started.elapsed() < PATIENCE, "no other file was requested");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bench.stop().await;
    // One request per worker, and one for a random file id.
    assert!(bench.server.requests().len() <= 5, "{}", bench.server.requests().len());
    assert_eq!(bench.count("SELECT sum(attempts) FROM invoices").await, 0);
    bench.until(DUE, 50).await;

    // The same rows, with the correct key.
    bench.config.test.as_mut().unwrap().api_key = Secret::new(super::API_KEY);
    bench.context = Context::new();
    bench.start();
    bench.until(DUE, 0).await;
    bench.stop().await;
    bench.check(0..50).await;
}

#[tokio::test]
async fn a_document_stored_before_a_crash_is_adopted() {
    let bench = Bench::new().await;
    bench.announce(0..2).await;
    let dead = Fetcher::new(bench.config.clone(), &bench.database.config, Context::new()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    dead.attempt(&LeasedDocument::for_test(file(0), Mode::Test), deadline).await.unwrap();
    assert_eq!(bench.row(file(0)).await.state, "due");
    bench.start();
    bench.until(DUE, 0).await;
    bench.stop().await;
    bench.check(0..2).await;
}

/// Stores other bytes under the key of a file's document.
fn occupy(bench: &Bench, file_id: FileId, bytes: &[u8]) -> std::path::PathBuf {
    let path = bench.folder.path().join(Archive::key(Mode::Test, file_id));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

#[tokio::test]
async fn a_stored_document_is_kept_although_it_would_be_rendered_again() {
    let bench = Bench::new().await;
    let stored = b"%PDF-1.4 of the day before\n%%EOF\n";
    let path = occupy(&bench, file(0), stored);
    bench.announce([0]).await;
    bench.start();
    bench.until(DUE, 0).await;
    bench.stop().await;
    let row = bench.row(file(0)).await;
    assert_eq!((row.state.as_str(), row.attempts), ("stored", 1), "{row:?}");
    assert_eq!(row.sha256.as_deref(), Some(Sha256Hash::of(stored).as_bytes().as_slice()));
    assert_eq!(std::fs::read(&path).unwrap(), stored);
    assert_eq!(bench.server.requests().len(), 0, "no document is requested");
    assert_eq!(bench.count("SELECT count(*) FROM outbox WHERE kind = 'invoice.stored'").await, 1);
}

#[tokio::test]
async fn a_document_whose_key_is_taken_is_stored_under_another_key() {
    let bench = Bench::new().await;
    let path = occupy(&bench, file(0), b"half a document");
    bench.announce([0]).await;
    bench.start();
    bench.until(DUE, 0).await;
    bench.stop().await;
    let (row, expected) = (bench.row(file(0)).await, document(file(0)));
    let hash = Sha256Hash::of(&expected);
    assert_eq!(row.state, "stored", "{row:?}");
    assert_eq!(row.sha256.as_deref(), Some(hash.as_bytes().as_slice()));
    assert_eq!(row.object_key, Some(Archive::other_key(Mode::Test, file(0), hash)));
    assert_eq!(std::fs::read(bench.folder.path().join(row.object_key.unwrap())).unwrap(), expected);
    assert_eq!(std::fs::read(&path).unwrap(), b"half a document", "nothing is overwritten");
}

#[tokio::test]
async fn a_document_discarded_as_a_conflict_is_adopted_on_retry() {
    let bench = Bench::new().await;
    let stored = b"%PDF-1.4 of the day before\n%%EOF\n";
    occupy(&bench, file(0), stored);
    bench.announce([0]).await;
    let given_up = "UPDATE invoices SET state = 'discarded', ended_at = now(), last_error = 'conflict: other bytes'";
    sqlx::query(given_up).execute(&bench.database.pool).await.unwrap();
    bench.start();
    let filter = Filter { reason: Some("conflict".to_owned()), ..Filter::default() };
    let request = retry::Request { by: "ada".to_owned(), reason: "the archive has it".to_owned() };
    let mut connection = bench.database.pool.acquire().await.unwrap();
    retry::run(&mut connection, &filter, 10, &request, retry::Run::Apply).await.unwrap();
    bench.until("SELECT count(*) FROM invoices WHERE state = 'stored'", 1).await;
    bench.stop().await;
    assert_eq!(bench.row(file(0)).await.sha256.as_deref(), Some(Sha256Hash::of(stored).as_bytes().as_slice()));
}

#[tokio::test]
async fn downloads_wait_until_the_archive_is_writable() {
    let bench = Bench::new().await;
    // A file in place of a directory fails without permissions, so the test also works as root.
    std::fs::write(bench.folder.path().join("invoices"), "").unwrap();
    bench.announce([0]).await;
    bench.start();
    bench.until("SELECT count(*) FROM invoices WHERE last_error LIKE 'store: %'", 1).await;
    std::fs::remove_file(bench.folder.path().join("invoices")).unwrap();
    bench.until(DUE, 0).await;
    bench.stop().await;
    bench.check([0]).await;
}

#[tokio::test]
async fn a_soft_shutdown_finishes_downloads_in_progress() {
    let bench = Bench::new().await;
    bench.server.answer(file(0), [Answer::Late(Duration::from_millis(500))]);
    bench.announce([0]).await;
    bench.start();
    let started = Instant::now();
    while bench.server.requests().len() < 2 {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.stop().await;
    bench.check([0]).await;
}

#[tokio::test]
async fn a_hard_shutdown_makes_downloads_in_progress_due_again() {
    let bench = Bench::new().await;
    bench.server.answer(file(0), [Answer::Late(Duration::from_secs(600))]);
    bench.announce([0]).await;
    bench.start();
    let started = Instant::now();
    while bench.server.requests().len() < 2 {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.context.shutdown.stop();
    bench.context.shutdown.hard().cancel();
    assert!(bench.context.shutdown.wait(PATIENCE).await);
    let row = bench.row(file(0)).await;
    assert_eq!((row.state.as_str(), row.attempts), ("due", 0));
    assert!(row.last_error.unwrap().starts_with("stopping: "));
}

#[tokio::test]
async fn broken_database_connections_are_replaced() {
    let bench = Bench::new().await;
    bench.start();
    for round in 0..5 {
        let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid()";
        bench.announce(round * 20..round * 20 + 20).await;
        bench.count(kill).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let started = Instant::now();
    while sqlx::query_scalar::<_, i64>(DUE).fetch_one(&bench.database.pool).await.unwrap_or(1) > 0 {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bench.stop().await;
    bench.check(0..100).await;
}
