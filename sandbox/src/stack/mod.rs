//! The real parts that Riverlock stands on, started on this machine: PostgreSQL, Apache Kafka, or librdkafka's mock cluster
//! in place of Kafka. The demo, `make up` and the tests use it.
//!
//! Every server is a child process on loopback ports of its own, with its data and its log in a folder of its own. It ends
//! with this process, however this process ends. The scripts in `deploy/` know how each server is set up; this module knows
//! when it is ready, and stops, kills and restarts it.
//!
//! Deliberately absent: topics and migrations (the project's own commands make them), and anything for production.

mod embedded;
mod folders;
mod kafka;
pub mod ports;
mod postgres;
mod process;

use std::{ffi::OsStr, io::Write as _, os::unix::fs::PermissionsExt as _, path::PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

pub use self::embedded::{EmbeddedBroker, PARTITION_CAPACITY_BYTES, PARTITION_CAPACITY_RECORDS};
pub use self::kafka::Kafka;
pub use self::postgres::Postgres;
pub use self::process::{Process, Signal};
pub use folders::repo_root;

/// Open to others, so that PostgreSQL's account can pass when root starts it.
const PASSABLE: u32 = 0o755;

/// The folder that keeps `name`'s data between runs, created if need be: `/var/lib/riverlock/<name>` for root, and
/// `$XDG_STATE_HOME/riverlock/<name>` (`~/.local/state` by default) for everybody else.
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
            .context("HOME is not set: no place for data that stays")?
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

/// A relative path in such a variable is to be ignored, says the XDG specification.
fn absolute(value: Option<&OsStr>) -> Option<PathBuf> {
    value.map(PathBuf::from).filter(|path| path.is_absolute())
}

/// A folder under `/tmp` for one demo or one test, removed on drop.
///
/// # Errors
///
/// When it cannot be created.
pub fn temporary_dir() -> Result<TempDir> {
    // Not TMPDIR: that may lie in a home that PostgreSQL's account cannot enter.
    let folder =
        tempfile::Builder::new().prefix("riverlock-").tempdir_in("/tmp").context("creating a folder in /tmp")?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(PASSABLE))
        .with_context(|| format!("opening {}", folder.path().display()))?;
    Ok(folder)
}

/// Whether tests may use a real Apache Kafka. `RIVERLOCK_TEST_BROKER=embedded`, which `make test` sets where Kafka cannot
/// be had, says no; then this names `test` as skipped, on a stderr that the test harness does not swallow.
#[must_use]
pub fn kafka_for_test(test: &str) -> bool {
    let embedded = std::env::var_os("RIVERLOCK_TEST_BROKER").is_some_and(|broker| broker == "embedded");
    if embedded {
        // Nothing to be done if stderr is closed.
        let _closed =
            writeln!(std::io::stderr(), "SKIPPED {test}: it needs Apache Kafka, and this run has the embedded broker");
    }
    !embedded
}
