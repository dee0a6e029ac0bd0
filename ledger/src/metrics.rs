//! Names of the consumers' metrics.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram};
use riverlock_schemas::oddity::Oddity;

/// Records by consumer and outcome.
pub const RECORDS: &str = "consumer_records_total";
/// Records whose body was unusual and was read all the same, by kind of oddity.
pub const ODDITIES: &str = "riverlock_odd_records_total";
/// Records read again that already had their outcome.
pub const REREAD: &str = "consumer_reread_records_total";
/// Time of a batch's transaction.
pub const BATCH_SECONDS: &str = "consumer_batch_duration_seconds";
/// Size of a batch.
pub const BATCH_RECORDS: &str = "consumer_batch_records";
/// Transactions that had to run again, by reason.
pub const RETRIES: &str = "consumer_retries_total";
/// How often the database was found to lack what it once had.
pub const WENT_BACK: &str = "consumer_database_went_back_total";
/// Partitions that this process reads.
pub const PARTITIONS: &str = "consumer_assigned_partitions";
/// Rebalances by kind.
pub const REBALANCES: &str = "consumer_rebalances_total";
/// Records in Kafka that are not yet applied, by topic.
pub const LAG: &str = "consumer_lag_records";
/// Workers whose partitions are paused because PostgreSQL does not keep up.
pub const PAUSED: &str = "consumer_paused";
/// Gaps in the offsets that Kafka sent, by what became of them: `reread` counts each try, `lasting` those that stayed.
pub const GAPS: &str = "riverlock_consumer_gaps_total";
/// Messages published by the relay, by kind of source.
pub const RELAYED: &str = "relay_published_total";
/// Messages that wait to be published, up to a limit.
pub const RELAY_WAITING: &str = "relay_waiting_messages";
/// Age of the message that has waited longest to be published.
pub const RELAY_AGE: &str = "riverlock_relay_oldest_waiting_age_seconds";
/// Messages that cannot be published, and those that wait behind them.
pub const RELAY_PARKED: &str = "riverlock_relay_parked_messages";

/// Dead letters by state, as the database has them.
pub const DEAD_LETTERS: &str = "dead_letters";
/// Age of the oldest dead letter that waits for somebody.
pub const DEAD_LETTERS_OLDEST: &str = "dead_letters_oldest_open_age_seconds";
/// Records that came under an event id with a body that contradicts another, as the database has them.
pub const CONFLICTS: &str = "conflict_records";
/// Records that the running audit has proved.
pub const AUDIT_ACKNOWLEDGED: &str = "audit_acknowledged_records";
/// The outcomes of these, at the time when they were proved.
pub const AUDIT_OUTCOMES: &str = "audit_outcome_records";
/// What the running audit's last run found wrong.
pub const AUDIT_WRONG: &str = "audit_wrong_records";
/// Records that the consumers had not reached in the running audit's last run.
pub const AUDIT_PENDING: &str = "audit_pending_records";
/// When the running audit last found nothing wrong.
pub const AUDIT_LAST_SUCCESS: &str = "audit_last_success_timestamp_seconds";
/// How long the running audit's last run took.
pub const AUDIT_DURATION: &str = "audit_last_duration_seconds";
/// Rows of the running audit's partitions whose records Kafka deleted before they were proved.
pub const AUDIT_UNPROVED: &str = "riverlock_audit_unproved_rows_total";
/// Runs of the running audit in this process, by result.
pub const AUDIT_RUNS: &str = "audit_runs_total";

/// How a run of the running audit ends, as label values.
pub const AUDIT_RESULTS: [&str; 3] = ["right", "wrong", "error"];

/// The outcomes, as label values.
pub const OUTCOMES: [&str; 5] = ["applied", "duplicate", "ignored", "conflict", "dead"];

/// Describes the metrics of a consumer and sets its counters to 0, so that a dashboard shows 0 and not "no data".
pub fn describe(consumer: &'static str) {
    describe_counter!(RECORDS, "Records by outcome; their sum is what was read from the raw topics");
    describe_counter!(
        ODDITIES,
        "Records whose body has an oddity: a value of another JSON kind, an unusual time, a contradicting mode, and so on"
    );
    describe_counter!(REREAD, "Records that were read again and already had their outcome");
    describe_histogram!(BATCH_SECONDS, Unit::Seconds, "Time of one batch's transaction, commit included");
    describe_histogram!(BATCH_RECORDS, "Records in one batch");
    describe_counter!(RETRIES, "Transactions that had to run again");
    describe_counter!(WENT_BACK, "Times that the database was found to lack what it once had, and was read to again");
    describe_gauge!(PARTITIONS, "Partitions that this process reads");
    describe_counter!(REBALANCES, "Rebalances of the consumer group");
    describe_gauge!(LAG, "Records in Kafka that are not yet applied");
    describe_gauge!(PAUSED, "Workers whose partitions are paused because PostgreSQL does not keep up");
    describe_counter!(GAPS, "Gaps in the offsets that Kafka sent, which were read again or were found to last");
    for outcome in OUTCOMES {
        counter!(RECORDS, "consumer" => consumer, "outcome" => outcome).increment(0);
    }
    for oddity in Oddity::ALL {
        counter!(ODDITIES, "consumer" => consumer, "kind" => oddity.as_str()).increment(0);
    }
    counter!(REREAD, "consumer" => consumer).increment(0);
    counter!(WENT_BACK, "consumer" => consumer).increment(0);
    for kind in ["reread", "lasting"] {
        counter!(GAPS, "consumer" => consumer, "kind" => kind).increment(0);
    }
    for reason in [
        "connection",
        "deadlock",
        "serialization",
        "lock_timeout",
        "statement_timeout",
        "lost_race",
        "inconsistent",
        "newer",
        "timeout",
        "refused",
    ] {
        counter!(RETRIES, "consumer" => consumer, "reason" => reason).increment(0);
    }
    metrics::gauge!(PARTITIONS, "consumer" => consumer).set(0);
    metrics::gauge!(PAUSED, "consumer" => consumer).set(0);
}

/// Describes the relay's metrics and sets its counters to 0.
pub fn describe_relay() {
    describe_counter!(RELAYED, "Messages that the relay has published");
    describe_gauge!(
        RELAY_WAITING,
        "Messages that wait to be published, at most 100000; every process shows the same, so take the maximum, not the sum"
    );
    describe_gauge!(
        RELAY_AGE,
        Unit::Seconds,
        "Age of the message that has waited longest to be published; take the maximum"
    );
    describe_gauge!(
        RELAY_PARKED,
        "Messages that Kafka refuses for good, and those that wait behind them; take the maximum"
    );
    for source in ["outbox", "dead_letters"] {
        counter!(RELAYED, "source" => source).increment(0);
        for name in [RELAY_WAITING, RELAY_AGE, RELAY_PARKED] {
            metrics::gauge!(name, "source" => source).set(0);
        }
    }
}

/// Describes the metrics of dead letters and conflicts. They are the database's: every process shows the same.
pub fn describe_dead_letters() {
    describe_gauge!(
        DEAD_LETTERS,
        "Dead letters by state; every process shows the same, so take the maximum, not the sum"
    );
    describe_gauge!(DEAD_LETTERS_OLDEST, Unit::Seconds, "Age of the oldest dead letter that waits for somebody");
    describe_gauge!(CONFLICTS, "Records whose body contradicts another under the same event id");
    for state in crate::dead_letters::State::ALL {
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
