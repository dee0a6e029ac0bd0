//! The servers that Riverlock depends on, started on this machine: PostgreSQL, and Apache Kafka or librdkafka's mock
//! cluster. The demo, `make up` and the tests use it.
//!
//! Every server is a child process with its own loopback ports and its own folder for data and log. It ends with this
//! process, even if this process is killed. The scripts in `deploy/` set up each server; this module waits until it is
//! ready, and stops, kills and restarts it.
//!
//! Deliberately absent: topics and migrations, which `riverlock setup` creates, and anything for production.

mod embedded;
mod folders;
mod kafka;
pub mod ports;
mod postgres;
mod process;
pub mod usage;

use std::{ffi::OsStr, io::Write as _, os::unix::fs::PermissionsExt as _, path::PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

pub use self::embedded::{EmbeddedBroker, PARTITION_CAPACITY_BYTES, PARTITION_CAPACITY_RECORDS};
pub use self::kafka::Kafka;
pub use self::postgres::Postgres;
pub use self::process::{Process, Signal};
pub use folders::repo_root;

/// Permissions of folders: others may enter, so that PostgreSQL's account can reach its folder when root starts it.
const PASSABLE: u32 = 0o755;

/// The folder that keeps `name`'s data between runs, created if need be: `/var/lib/riverlock/<name>` for root, and
/// `$XDG_STATE_HOME/riverlock/<name>` (`~/.local/state` by default) for other users.
///
/// # Errors
///
/// When it cannot be created, or when there is no `HOME`.
pub fn state_dir(name: &str) -> Result<PathBuf> {
    let base = if rustix::process::geteuid().is_root() {
        PathBuf::from("/var/lib")
    } else if let Some(state) = absolute(std::env::var_os("XDG_STATE_HOME").as_deref()) {
        state
    } else {
        absolute(std::env::var_os("HOME").as_deref())
            .context("HOME is not set: there is no folder for permanent data")?
            .join(".local/state")
    };
    let ours = base.join("riverlock");
    let folder = ours.join(name);
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    for made in [&ours, &folder] {
        let open = std::fs::Permissions::from_mode(PASSABLE);
        std::fs::set_permissions(made, open).with_context(|| format!("opening {}", made.display()))?;
    }
    Ok(folder)
}

/// An absolute path; the XDG specification says to ignore relative ones.
fn absolute(value: Option<&OsStr>) -> Option<PathBuf> {
    value.map(PathBuf::from).filter(|path| path.is_absolute())
}

/// A folder under `/tmp` for one demo or one test, removed on drop.
///
/// # Errors
///
/// When it cannot be created.
pub fn temporary_dir() -> Result<TempDir> {
    // Not TMPDIR: it may be in a home directory that PostgreSQL's account cannot enter.
    let folder =
        tempfile::Builder::new().prefix("riverlock-").tempdir_in("/tmp").context("creating a folder in /tmp")?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(PASSABLE))
        .with_context(|| format!("opening {}", folder.path().display()))?;
    Ok(folder)
}

/// Whether tests may use Apache Kafka. `make test` sets `RIVERLOCK_TEST_BROKER=embedded` if Kafka is not available; then
/// this returns false and reports `test` as skipped, on a stderr that the test harness does not capture.
#[must_use]
pub fn kafka_for_test(test: &str) -> bool {
    let embedded = std::env::var_os("RIVERLOCK_TEST_BROKER").is_some_and(|broker| broker == "embedded");
    if embedded {
        // A closed stderr is ignored.
        let _closed =
            writeln!(std::io::stderr(), "SKIPPED {test}: it needs Apache Kafka, and this run has the embedded broker");
    }
    !embedded
}
