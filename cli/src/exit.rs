//! Exit codes. Every command uses these and no others.

use std::process::ExitCode;

use riverlock_ledger::{postgres::cluster::ClusterError, reading::ranges::RangeError};
use riverlock_processor::refold::RefoldError;
use riverlock_reconcile::ReconcileError;
use riverlock_recovery::{audit::AuditError, rebuild::RebuildError, replay::ReplayError};
use riverlock_runtime::ConfigError;

/// Everything is right, or the command did what was requested.
pub const SUCCESS: u8 = 0;
/// The command found a problem: a difference, a loss, a rejection, something that does not exist.
pub const PROBLEM: u8 = 1;
/// The command line or the configuration is invalid; nothing was done.
pub const USAGE: u8 = 2;
/// The command could not complete: Kafka, PostgreSQL, Digital River's API, the archive or a file was unavailable. Whether
/// there is a problem is not known.
pub const UNAVAILABLE: u8 = 3;
/// The command was interrupted; the same command continues.
pub const INTERRUPTED: u8 = 4;

/// The exit codes as part of the help.
pub const HELP: &str = "Exit codes:
  0  success
  1  a problem was found: a difference, a loss, a rejection, something that does not exist
  2  invalid command line or configuration
  3  Kafka, PostgreSQL, the archive or another server was unavailable; the result is not known
  4  interrupted; the same command continues";

/// Ends a command with [`PROBLEM`] and this message.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Problem(pub String);

/// Ends a command with [`USAGE`] and this message.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// [`SUCCESS`] or [`PROBLEM`].
#[must_use]
pub fn success_if(is_success: bool) -> ExitCode {
    ExitCode::from(if is_success { SUCCESS } else { PROBLEM })
}

/// The exit code of a command that ends with this error.
#[must_use]
pub fn code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(code_of).unwrap_or(UNAVAILABLE)
}

/// The exit code of one error in a chain; most have none.
fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if cause.is::<UsageError>() || cause.is::<ConfigError>() {
        return Some(USAGE);
    }
    // A transparent error is not among the causes of the error that contains it.
    let inner = cause.downcast_ref().or_else(|| match (cause.downcast_ref(), cause.downcast_ref()) {
        (Some(AuditError::Cluster(error)), _) | (_, Some(RefoldError::Cluster(error))) => Some(error),
        _ => None,
    });
    if let Some(error) = inner {
        return cluster(error);
    }
    if cause.is::<Problem>() {
        return Some(PROBLEM);
    }
    let inner = cause.downcast_ref().or_else(|| match cause.downcast_ref() {
        Some(RefoldError::Kafka(error)) => Some(error),
        _ => None,
    });
    if let Some(error) = inner {
        return range(error);
    }
    let of_long_commands = cause.downcast_ref().and_then(replay).or_else(|| cause.downcast_ref().and_then(rebuild));
    of_long_commands.or_else(|| cause.downcast_ref().and_then(reconcile)).or_else(|| cause.downcast_ref().and_then(api))
}

fn reconcile(error: &ReconcileError) -> Option<u8> {
    use ReconcileError as E;
    match error {
        E::NoTypes => Some(USAGE),
        E::Running(_) => Some(PROBLEM),
        E::Stopped => Some(INTERRUPTED),
        E::Cluster(error) => cluster(error),
        E::Walk(_) | E::Ledger(_) | E::Kafka(_) | E::Unconfirmed(_) | E::Event(_) | E::Behind { .. } | E::Panicked => {
            None
        }
    }
}

/// The exit code for an answer of Digital River. An answer that rejects the key, asks to wait or reports a failure says
/// nothing about the request.
fn api(error: &riverlock_digital_river::Error) -> Option<u8> {
    let is_refusal = |status: u16| (400..500).contains(&status) && ![401, 403, 408, 429].contains(&status);
    error.status().is_some_and(is_refusal).then_some(PROBLEM)
}

fn replay(error: &ReplayError) -> Option<u8> {
    use ReplayError as E;
    match error {
        E::UnknownTopic { .. }
        | E::UnknownPartition { .. }
        | E::EmptyOffsets(..)
        | E::EmptyTime(..)
        | E::UnknownPlan(_)
        | E::BadHash(..)
        | E::AmbiguousPlan(_) => Some(USAGE),
        E::NotInKafka { .. }
        | E::NotReached { .. }
        | E::Empty
        | E::AlreadyDone { .. }
        | E::Busy(_)
        | E::ConsumerRegressed { .. }
        | E::Deviates { .. }
        | E::Superseded(_) => Some(PROBLEM),
        E::Stopped => Some(INTERRUPTED),
        E::EarlierCluster { .. } => Some(PROBLEM),
        E::Cluster(error) => cluster(error),
        E::Range(error) => range(error),
        E::Kafka { .. } | E::Ledger(_) | E::Panicked => None,
    }
}

fn rebuild(error: &RebuildError) -> Option<u8> {
    use RebuildError as E;
    match error {
        E::Schema(_) => Some(USAGE),
        E::Expired { .. }
        | E::Lost { .. }
        | E::Tables { .. }
        | E::NotMigrated(_)
        | E::Busy
        | E::Mixed(_)
        | E::Running(_)
        | E::Moved => Some(PROBLEM),
        E::EarlierCluster(_) => Some(PROBLEM),
        E::Cluster(error) => cluster(error),
        E::Ranges(error) => range(error),
        E::Ledger(_) | E::Migrate { .. } | E::Kafka(_) | E::Panicked => None,
    }
}

/// Records that Kafka does not have are a problem; other errors say nothing about the records.
fn range(error: &RangeError) -> Option<u8> {
    use RangeError as E;
    match error {
        E::Gone { .. } | E::NoTopic(_) | E::NoPartition { .. } => Some(PROBLEM),
        E::Kafka(_) | E::Unavailable { .. } | E::Stalled(_) => None,
    }
}

fn cluster(error: &ClusterError) -> Option<u8> {
    matches!(error, ClusterError::Other { .. }).then_some(PROBLEM)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_exit_code_is_found_below_added_context() {
        let usage = Err::<(), _>(UsageError("--by is empty".to_owned())).context("a").context("b").unwrap_err();
        let config = sqlx::Error::Configuration(ConfigError::refused("postgres.url", "is no address").into());
        let config = Err::<(), _>(config).context("PostgreSQL cannot be reached").unwrap_err();
        let wrong = Err::<(), _>(Problem("no such order".to_owned())).context("a").unwrap_err();
        let unknown = anyhow::Error::from(sqlx::Error::PoolTimedOut).context("a");
        assert_eq!([code(&usage), code(&config), code(&wrong), code(&unknown)], [USAGE, USAGE, PROBLEM, UNAVAILABLE]);
        let stopped = anyhow::Error::from(ReplayError::Stopped);
        let running = anyhow::Error::from(RebuildError::Running("process 1".to_owned())).context("a");
        let kafka = anyhow::Error::from(RebuildError::Panicked);
        assert_eq!([code(&stopped), code(&running), code(&kafka)], [INTERRUPTED, PROBLEM, UNAVAILABLE]);
        let missing = || RangeError::NoPartition { topic: "raw".to_owned(), partition: 3, partitions: 3 };
        let replay = anyhow::Error::from(ReplayError::from(missing())).context("a");
        let rebuild = anyhow::Error::from(RebuildError::from(missing())).context("a");
        let refold = anyhow::Error::from(RefoldError::from(missing())).context("a");
        assert_eq!([code(&replay), code(&rebuild), code(&refold)], [PROBLEM; 3]);
    }
}
