//! What a command's exit code says. Every command uses these and no other ones.

use std::process::ExitCode;

use riverlock_ledger::{postgres::cluster::ClusterError, reading::ranges::RangeError};
use riverlock_processor::refold::RefoldError;
use riverlock_reconcile::ReconcileError;
use riverlock_recovery::{audit::AuditError, rebuild::RebuildError, replay::ReplayError};
use riverlock_runtime::ConfigError;

/// All is as it should be, or what was asked for is done.
pub const WELL: u8 = 0;
/// The command could look, and something is wrong: a difference, a loss, a refusal, something that is not there.
pub const WRONG: u8 = 1;
/// The command line or the configuration is wrong; nothing was done.
pub const USAGE: u8 = 2;
/// The command could not look or could not go on: Kafka, PostgreSQL, Digital River's API, the archive or a file did not
/// answer. Nothing is known about what it was asked for.
pub const UNKNOWN: u8 = 3;
/// The command was asked to end before it was done; the same command goes on where it was.
pub const STOPPED: u8 = 4;

/// The part of `--help` that says this.
pub const HELP: &str = "Exit codes:
  0  all is as it should be, or what was asked for is done
  1  something is wrong: a difference, a loss, a refusal, something that is not there
  2  the command line or the configuration is wrong
  3  the command could not look: Kafka, PostgreSQL, the archive or another server did not answer
  4  the command was interrupted; run again, it goes on where it was";

/// Ends a command with [`WRONG`] and this sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(pub String);

/// Ends a command with [`USAGE`] and this sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// [`WELL`] or [`WRONG`].
#[must_use]
pub fn well_if(is_well: bool) -> ExitCode {
    ExitCode::from(if is_well { WELL } else { WRONG })
}

/// The exit code of a command that ends with this error.
#[must_use]
pub fn code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(known).unwrap_or(UNKNOWN)
}

/// What an error means by itself; nothing is known of most.
fn known(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if cause.is::<Usage>() || cause.is::<ConfigError>() {
        return Some(USAGE);
    }
    // Transparent errors are not among the causes of those that hold them.
    let held = cause.downcast_ref().or_else(|| match (cause.downcast_ref(), cause.downcast_ref()) {
        (Some(AuditError::Cluster(error)), _) | (_, Some(RefoldError::Cluster(error))) => Some(error),
        _ => None,
    });
    if let Some(error) = held {
        return cluster(error);
    }
    if cause.is::<Wrong>() {
        return Some(WRONG);
    }
    let held = cause.downcast_ref().or_else(|| match cause.downcast_ref() {
        Some(RefoldError::Kafka(error)) => Some(error),
        _ => None,
    });
    if let Some(error) = held {
        return range(error);
    }
    let of_long_commands = cause.downcast_ref().and_then(replay).or_else(|| cause.downcast_ref().and_then(rebuild));
    of_long_commands.or_else(|| cause.downcast_ref().and_then(reconcile)).or_else(|| cause.downcast_ref().and_then(api))
}

fn reconcile(error: &ReconcileError) -> Option<u8> {
    use ReconcileError as E;
    match error {
        E::NoTypes => Some(USAGE),
        E::Running(_) => Some(WRONG),
        E::Stopped => Some(STOPPED),
        E::Cluster(error) => cluster(error),
        E::Walk(_) | E::Ledger(_) | E::Kafka(_) | E::Unconfirmed(_) | E::Event(_) | E::Behind { .. } | E::Panicked => {
            None
        }
    }
}

/// What Digital River's answer means. One that refuses the key, asks to wait or reports a failure says nothing about what was
/// asked for.
fn api(error: &riverlock_digital_river::Error) -> Option<u8> {
    let is_refusal = |status: u16| (400..500).contains(&status) && ![401, 403, 408, 429].contains(&status);
    error.status().is_some_and(is_refusal).then_some(WRONG)
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
        | E::Superseded(_) => Some(WRONG),
        E::Stopped => Some(STOPPED),
        E::EarlierCluster { .. } => Some(WRONG),
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
        | E::Moved => Some(WRONG),
        E::EarlierCluster(_) => Some(WRONG),
        E::Cluster(error) => cluster(error),
        E::Ranges(error) => range(error),
        E::Ledger(_) | E::Migrate { .. } | E::Kafka(_) | E::Panicked => None,
    }
}

/// What Kafka does not have is known to be missing; whatever else keeps records from being read says nothing about them.
fn range(error: &RangeError) -> Option<u8> {
    use RangeError as E;
    match error {
        E::Gone { .. } | E::NoTopic(_) | E::NoPartition { .. } => Some(WRONG),
        E::Kafka(_) | E::Unavailable { .. } | E::Stalled(_) => None,
    }
}

fn cluster(error: &ClusterError) -> Option<u8> {
    matches!(error, ClusterError::Other { .. }).then_some(WRONG)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_kind_of_an_error_is_found_below_what_was_added_to_it() {
        let usage = Err::<(), _>(Usage("--by is empty".to_owned())).context("a").context("b").unwrap_err();
        let config = sqlx::Error::Configuration(ConfigError::refused("postgres.url", "is no address").into());
        let config = Err::<(), _>(config).context("PostgreSQL cannot be reached").unwrap_err();
        let wrong = Err::<(), _>(Wrong("no such order".to_owned())).context("a").unwrap_err();
        let unknown = anyhow::Error::from(sqlx::Error::PoolTimedOut).context("a");
        assert_eq!([code(&usage), code(&config), code(&wrong), code(&unknown)], [USAGE, USAGE, WRONG, UNKNOWN]);
        let stopped = anyhow::Error::from(ReplayError::Stopped);
        let running = anyhow::Error::from(RebuildError::Running("process 1".to_owned())).context("a");
        let kafka = anyhow::Error::from(RebuildError::Panicked);
        assert_eq!([code(&stopped), code(&running), code(&kafka)], [STOPPED, WRONG, UNKNOWN]);
        let missing = || RangeError::NoPartition { topic: "raw".to_owned(), partition: 3, partitions: 3 };
        let replay = anyhow::Error::from(ReplayError::from(missing())).context("a");
        let rebuild = anyhow::Error::from(RebuildError::from(missing())).context("a");
        let refold = anyhow::Error::from(RefoldError::from(missing())).context("a");
        assert_eq!([code(&replay), code(&rebuild), code(&refold)], [WRONG; 3]);
    }
}
