//! Metrics of dead letters and of the continuous audit.

use metrics::{Unit, counter, describe_counter, describe_gauge};
use riverlock_ledger::metrics::OUTCOMES;

/// Dead letters by state, as stored in the database.
pub const DEAD_LETTERS: &str = "riverlock_dead_letters";
/// Age of the oldest open dead letter.
pub const DEAD_LETTERS_OLDEST: &str = "riverlock_dead_letters_oldest_open_age_seconds";
/// Records whose content contradicts another record of the same event, as stored in the database.
pub const CONFLICTS: &str = "riverlock_conflict_records";
/// Records that the continuous audit has proved.
pub const AUDIT_ACKNOWLEDGED: &str = "riverlock_audit_acknowledged_records";
/// The outcomes of these records at the time they were proved.
pub const AUDIT_OUTCOMES: &str = "riverlock_audit_outcome_records";
/// Mismatches found by the continuous audit's last run.
pub const AUDIT_WRONG: &str = "riverlock_audit_mismatched_records";
/// Records that the consumers had not read at the continuous audit's last run.
pub const AUDIT_PENDING: &str = "riverlock_audit_pending_records";
/// Time of the continuous audit's last run without a mismatch.
pub const AUDIT_LAST_SUCCESS: &str = "riverlock_audit_last_success_timestamp_seconds";
/// Duration of the continuous audit's last run.
pub const AUDIT_DURATION: &str = "riverlock_audit_last_duration_seconds";
/// Rows whose records Kafka deleted before the continuous audit could prove them.
pub const AUDIT_UNPROVED: &str = "riverlock_audit_unproved_rows_total";
/// Runs of the continuous audit in this process, by result.
pub const AUDIT_RUNS: &str = "riverlock_audit_runs_total";

/// Size of each table with its indexes.
pub const TABLE_BYTES: &str = "riverlock_table_bytes";
/// Size of the database.
pub const DATABASE_BYTES: &str = "riverlock_database_bytes";

/// Label values of [`AUDIT_RUNS`].
pub const AUDIT_RESULTS: [&str; 3] = ["right", "wrong", "error"];

/// Describes the metrics of dead letters and conflicts. They come from the database: every process exports the same
/// values.
pub fn describe_dead_letters() {
    describe_gauge!(
        DEAD_LETTERS,
        "Dead letters by state; every process exports the same value, so use the maximum, not the sum"
    );
    describe_gauge!(DEAD_LETTERS_OLDEST, Unit::Seconds, "Age of the oldest open dead letter");
    describe_gauge!(CONFLICTS, "Records whose content contradicts another record of the same event");
    for state in crate::dead_letters::LetterState::ALL {
        metrics::gauge!(DEAD_LETTERS, "state" => state.as_str()).set(0);
    }
    metrics::gauge!(DEAD_LETTERS_OLDEST).set(0);
    metrics::gauge!(CONFLICTS).set(0);
}

/// Describes the metrics of sizes. A table's series appears when it was measured first.
pub(crate) fn describe_sizes() {
    describe_gauge!(
        TABLE_BYTES,
        Unit::Bytes,
        "Size of each table of the install, with indexes and large values; partitions count for their table; use the maximum"
    );
    describe_gauge!(
        DATABASE_BYTES,
        Unit::Bytes,
        "Size of the whole database; 0 before the first measurement; use the maximum"
    );
    metrics::gauge!(DATABASE_BYTES).set(0);
}

/// Describes the continuous audit's metrics. They come from the database: every process exports the same values.
pub fn describe_audit() {
    describe_gauge!(
        AUDIT_ACKNOWLEDGED,
        "Acknowledged records that the continuous audit has proved to have one outcome"
    );
    describe_gauge!(
        AUDIT_OUTCOMES,
        "Outcomes of the proved records at the time they were proved; a dead letter redriven later still counts as dead here"
    );
    describe_gauge!(AUDIT_WRONG, "Mismatches found by the continuous audit's last run; `riverlock audit` lists all");
    describe_gauge!(AUDIT_PENDING, "Records that the consumers had not read at the continuous audit's last run");
    describe_gauge!(
        AUDIT_LAST_SUCCESS,
        Unit::Seconds,
        "Time of the continuous audit's last run without a mismatch; 0 if there was none"
    );
    describe_gauge!(AUDIT_DURATION, Unit::Seconds, "Duration of the continuous audit's last run");
    describe_counter!(AUDIT_RUNS, "Runs of the continuous audit in this process");
    describe_counter!(
        AUDIT_UNPROVED,
        "Rows whose records Kafka deleted before this process's continuous audit could prove them"
    );
    counter!(AUDIT_UNPROVED).increment(0);
    for outcome in OUTCOMES {
        metrics::gauge!(AUDIT_OUTCOMES, "outcome" => outcome).set(0);
    }
    for name in [AUDIT_ACKNOWLEDGED, AUDIT_WRONG, AUDIT_PENDING, AUDIT_LAST_SUCCESS, AUDIT_DURATION] {
        metrics::gauge!(name).set(0);
    }
    for result in AUDIT_RESULTS {
        counter!(AUDIT_RUNS, "result" => result).increment(0);
    }
}
