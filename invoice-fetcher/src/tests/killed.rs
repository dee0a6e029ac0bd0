//! A fetcher that is killed (SIGKILL) between two named steps loses no document, duplicates none and leaves no leftovers.
//!
//! `killing.rs` drops an attempt at every await point; here a process is killed between the steps that matter.

use std::{
    fmt,
    path::{Path as FolderPath, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures::{StreamExt as _, stream, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, local::LocalFileSystem, path::Path,
};
use riverlock_runtime::Context;
use riverlock_schemas::Mode;
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use super::{
    child, config,
    database::Database,
    fetching::{Bench, PATIENCE},
    file, files,
    server::Answer,
};
use crate::{Archive, archive::sweep, fetch::worker::Fetcher};

/// Settings of a fetcher in a child process.
#[derive(Serialize, Deserialize)]
struct ChildSettings {
    database: String,
    digital_river: url::Url,
    folder: PathBuf,
    gate: Gate,
    part_bytes: usize,
}

/// Stops before an operation: creates a file, and waits until it is removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Gate {
    before: String,
    file: PathBuf,
}

impl Gate {
    async fn pass(self, operation: &str) {
        if operation == self.before {
            std::fs::write(&self.file, "").unwrap();
            while self.file.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// A local store with a gate.
#[derive(Debug)]
struct Gated {
    folder: LocalFileSystem,
    gate: Gate,
}

impl fmt::Display for Gated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("gated")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Gated {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.gate.clone().pass("put").await;
        self.folder.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.folder.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.folder.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (gate, deleted) = (self.gate.clone(), self.folder.delete_stream(locations));
        let passed = async move {
            gate.pass("delete").await;
            deleted
        };
        stream::once(passed).flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.folder.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.folder.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.gate.clone().pass("copy").await;
        self.folder.copy_opts(from, to, options).await
    }
}

/// Downloads documents until the process is killed.
async fn fetch_until_killed(settings: ChildSettings) {
    let config = config(&settings.digital_river, &settings.folder);
    let mut fetcher = Fetcher::new(config, &Database::at(&settings.database).config, Context::new()).unwrap();
    let folder = LocalFileSystem::new_with_prefix(&settings.folder).unwrap().with_fsync(true);
    let gated = Gated { folder, gate: settings.gate };
    fetcher.archive = Archive::new(Arc::new(gated), settings.part_bytes);
    Arc::new(fetcher).run().await.unwrap();
}

/// The step at which a fetcher is killed.
#[derive(Clone, Copy)]
struct Step {
    /// The operation of the store before which it stops.
    before: &'static str,
    /// How it continues after that operation, until it waits for a lock: the lock, and the statement that waits for it.
    lock: Option<(&'static str, &'static str)>,
    part_bytes: usize,
    /// Whether the document is in the archive at that step.
    is_in_archive: bool,
}

/// Part sizes with which the document is a single put, and a staged upload.
const WHOLE: usize = 1 << 20;
const PARTS: usize = 64;

const NAME: &str = "tests::killed::a_fetcher_killed_between_two_steps_loses_and_duplicates_nothing";

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < PATIENCE, "{what} never happens");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Kills a fetcher at a step, and lets another one finish.
async fn kill_at(step: Step) {
    let (bench, other) = (Bench::new().await, tempfile::tempdir().unwrap());
    let gate = Gate { before: step.before.to_owned(), file: other.path().join("gate") };
    let closed = gate.file.clone();
    let settings = ChildSettings {
        database: bench.database.config.url.expose().to_owned(),
        digital_river: bench.server.base.clone(),
        folder: bench.folder.path().to_owned(),
        gate,
        part_bytes: step.part_bytes,
    };
    if step.before.is_empty() {
        bench.server.answer(file(9), [Answer::Dribble(Duration::from_millis(100)), Answer::Document]);
    }
    bench.announce([9]).await;
    let mut child = child::command([""; 0], NAME, &serde_json::to_string(&settings).unwrap()).spawn().unwrap();

    if step.before.is_empty() {
        until("the download", async || bench.server.requests().len() == 2).await;
    } else {
        until(step.before, async || closed.exists()).await;
    }
    let mut locker = bench.database.config.connect().await.unwrap();
    let mut locked = locker.begin().await.unwrap();
    if let Some((lock, statement)) = step.lock {
        locked.execute(AssertSqlSafe(lock)).await.unwrap();
        std::fs::remove_file(&closed).unwrap();
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                     AND datname = current_database() AND query LIKE '%' || $1 || '%'";
        until(statement, async || {
            let waiting: i64 = sqlx::query_scalar(waits).bind(statement).fetch_one(&bench.database.pool).await.unwrap();
            waiting > 0
        })
        .await;
    }
    child.kill().await.unwrap();
    locked.rollback().await.unwrap();
    finish_after_kill(&bench, step.is_in_archive).await;
}

async fn finish_after_kill(bench: &Bench, is_in_archive: bool) {
    // PostgreSQL ends the killed process's session.
    let sessions =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE '%transaction%'";
    bench.until(sessions, 0).await;
    assert_eq!(bench.count("SELECT count(*) FROM invoices WHERE state = 'due'").await, 1);
    assert_eq!(bench.count("SELECT count(*) FROM outbox").await, 0);
    let path = bench.folder.path().join(Archive::key(Mode::Test, file(9)));
    assert_eq!(path.exists(), is_in_archive, "killed at another step");

    let lease = "SELECT count(*) FROM invoices WHERE lease_id IS NOT NULL AND next_attempt_at > created_at";
    assert_eq!(bench.count(lease).await, 1, "the lease of the killed process");
    bench.database.pool.execute("UPDATE invoices SET next_attempt_at = created_at").await.unwrap();
    bench.start();
    bench.until("SELECT count(*) FROM invoices WHERE state = 'stored'", 1).await;
    bench.stop().await;
    let archive = Archive::open(&bench.config).unwrap();
    sweep::sweep(&archive, DateTime::<Utc>::MAX_UTC).await.unwrap();
    bench.check([9]).await;
    assert_eq!(leftovers(bench.folder.path()), Vec::<PathBuf>::new());
}

fn leftovers(folder: &FolderPath) -> Vec<PathBuf> {
    files(folder).into_iter().filter(|path| path.extension().is_none_or(|extension| extension != "pdf")).collect()
}

#[tokio::test]
async fn a_fetcher_killed_between_two_steps_loses_and_duplicates_nothing() {
    if let Some(settings) = child::argument() {
        return fetch_until_killed(serde_json::from_str(&settings).unwrap()).await;
    }
    let row = Some(("SELECT FROM invoices FOR UPDATE", "invoices_mark_stored"));
    let outbox = Some(("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE", "INSERT INTO outbox"));
    for (between, before, lock, part_bytes, is_in_archive) in [
        ("in the download", "", None, WHOLE, false),
        ("between download and put", "put", None, WHOLE, false),
        ("between put and row", "put", row, WHOLE, true),
        ("between row and outbox", "put", outbox, WHOLE, true),
        ("between staging and copy", "copy", None, PARTS, false),
        ("between copy and the staged object's removal", "delete", None, PARTS, true),
    ] {
        eprintln!("killed {between}");
        kill_at(Step { before, lock, part_bytes, is_in_archive }).await;
    }
}
