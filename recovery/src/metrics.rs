//! Names of the metrics of dead letters and of the running audit.

use metrics::{Unit, counter, describe_counter, describe_gauge};
use riverlock_ledger::metrics::OUTCOMES;

/// Dead letters by state, as the database has them.
pub const DEAD_LETTERS: &str = "riverlock_dead_letters";
/// Age of the oldest dead letter that waits for somebody.
pub const DEAD_LETTERS_OLDEST: &str = "riverlock_dead_letters_oldest_open_age_seconds";
/// Records that came under an event id with a body that contradicts another, as the database has them.
pub const CONFLICTS: &str = "riverlock_conflict_records";
/// Records that the running audit has proved.
pub const AUDIT_ACKNOWLEDGED: &str = "riverlock_audit_acknowledged_records";
/// The outcomes of these, at the time when they were proved.
pub const AUDIT_OUTCOMES: &str = "riverlock_audit_outcome_records";
/// What the running audit's last run found wrong.
pub const AUDIT_WRONG: &str = "riverlock_audit_mismatched_records";
/// Records that the consumers had not reached in the running audit's last run.
pub const AUDIT_PENDING: &str = "riverlock_audit_pending_records";
/// When the running audit last found nothing wrong.
pub const AUDIT_LAST_SUCCESS: &str = "riverlock_audit_last_success_timestamp_seconds";
/// How long the running audit's last run took.
pub const AUDIT_DURATION: &str = "riverlock_audit_last_duration_seconds";
/// Rows of the running audit's partitions whose records Kafka deleted before they were proved.
pub const AUDIT_UNPROVED: &str = "riverlock_audit_unproved_rows_total";
/// Runs of the running audit in this process, by result.
pub const AUDIT_RUNS: &str = "riverlock_audit_runs_total";

/// How a run of the running audit ends, as label values.
pub const AUDIT_RESULTS: [&str; 3] = ["right", "wrong", "error"];

/// Describes the metrics of dead letters and conflicts. They are the database's: every process shows the same.
pub fn describe_dead_letters() {
    describe_gauge!(
        DEAD_LETTERS,
        "Dead letters by state; every process shows the same, so take the maximum, not the sum"
    );
    describe_gauge!(DEAD_LETTERS_OLDEST, Unit::Seconds, "Age of the oldest dead letter that waits for somebody");
    describe_gauge!(CONFLICTS, "Records whose body contradicts another under the same event id");
    for state in crate::dead_letters::LetterState::ALL {
        metrics::gauge!(DEAD_LETTERS, "state" => state.as_str()).set(0);
    }
    metrics::gauge!(DEAD_LETTERS_OLDEST).set(0);
    metrics::gauge!(CONFLICTS).set(0);
}

/// Describes the running audit's metrics. They are the database's: every process shows the same.
pub fn describe_audit() {
    describe_gauge!(AUDIT_ACKNOWLEDGED, "Acknowledged records that the running audit has proved to have one outcome");
    describe_gauge!(
        AUDIT_OUTCOMES,
        "The outcomes of these when they were proved; a letter redriven later is still dead here"
    );
    describe_gauge!(AUDIT_WRONG, "What the running audit's last run found wrong; `riverlock audit` lists all");
    describe_gauge!(AUDIT_PENDING, "Records that the consumers had not reached in the running audit's last run");
    describe_gauge!(AUDIT_LAST_SUCCESS, Unit::Seconds, "When the running audit last found nothing wrong; 0 is never");
    describe_gauge!(AUDIT_DURATION, Unit::Seconds, "How long the running audit's last run took");
    describe_counter!(AUDIT_RUNS, "Runs of the running audit in this process");
    describe_counter!(
        AUDIT_UNPROVED,
        "Rows whose records Kafka deleted before this process's running audit could prove them"
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
