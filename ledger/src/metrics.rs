//! Metrics of the consumers and the relay.

pub mod latency;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram};
use riverlock_schemas::oddity::Oddity;

/// Records by consumer and outcome.
pub const RECORDS: &str = "riverlock_consumer_records_total";
/// Records whose body has an oddity, by kind.
pub const ODDITIES: &str = "riverlock_odd_records_total";
/// Records read again that already had an outcome.
pub const REREAD: &str = "riverlock_consumer_reread_records_total";
/// Duration of a batch's transaction.
pub const BATCH_SECONDS: &str = "riverlock_consumer_batch_duration_seconds";
/// Number of records in a batch.
pub const BATCH_RECORDS: &str = "riverlock_consumer_batch_records";
/// Retried transactions, by reason.
pub const RETRIES: &str = "riverlock_consumer_retries_total";
/// Times that the database had regressed.
pub const REGRESSIONS: &str = "riverlock_consumer_database_regressions_total";
/// Partitions assigned to this process.
pub const PARTITIONS: &str = "riverlock_consumer_assigned_partitions";
/// Rebalances by kind.
pub const REBALANCES: &str = "riverlock_consumer_rebalances_total";
/// Records in Kafka that are not stored yet, by topic.
pub const LAG: &str = "riverlock_consumer_lag_records";
/// Attempts to connect to PostgreSQL, by result.
pub const POSTGRES_CONNECTIONS: &str = "riverlock_postgres_connections_total";
/// Workers whose partitions are paused because PostgreSQL does not keep up.
pub const PAUSED: &str = "riverlock_consumer_paused";
/// Gaps in the offsets of records from Kafka: `reread` counts the attempts to read the missing records, `lasting` the
/// gaps that remained.
pub const GAPS: &str = "riverlock_consumer_gaps_total";
/// Messages published by the relay, by queue.
pub const RELAYED: &str = "riverlock_relay_published_total";
/// Messages waiting to be published, up to a limit.
pub const RELAY_WAITING: &str = "riverlock_relay_pending_messages";
/// Age of the message that has waited longest.
pub const RELAY_AGE: &str = "riverlock_relay_oldest_waiting_age_seconds";
/// Parked messages, including those that wait behind a parked one.
pub const RELAY_PARKED: &str = "riverlock_relay_parked_messages";

/// Outcomes, as label values.
pub const OUTCOMES: [&str; 5] = ["applied", "duplicate", "ignored", "conflict", "dead"];

/// Describes the metrics of a consumer and sets its counters to 0, so that dashboards show 0 and not "no data".
pub fn describe(consumer: &'static str) {
    describe_counter!(RECORDS, "Records by outcome; their sum is the number of records read from the raw topics");
    describe_counter!(
        ODDITIES,
        "Records whose body has an oddity: a value of another JSON kind, an unusual time, a contradicting mode, and so on"
    );
    describe_counter!(REREAD, "Records that were read again and already had an outcome");
    describe_histogram!(BATCH_SECONDS, Unit::Seconds, "Duration of one batch's transaction, including the commit");
    describe_histogram!(BATCH_RECORDS, "Records in one batch");
    describe_counter!(RETRIES, "Retried transactions");
    describe_counter!(
        REGRESSIONS,
        "Restarts because the database lacked data that it had confirmed; the missing records were read again"
    );
    describe_gauge!(PARTITIONS, "Partitions assigned to this process");
    describe_counter!(REBALANCES, "Rebalances of the consumer group");
    describe_gauge!(LAG, "Records in Kafka that are not stored yet");
    describe_gauge!(PAUSED, "Workers whose partitions are paused because PostgreSQL does not keep up");
    describe_counter!(GAPS, "Gaps in the offsets of records from Kafka, which were read again or remained");
    for outcome in OUTCOMES {
        counter!(RECORDS, "consumer" => consumer, "outcome" => outcome).increment(0);
    }
    for oddity in Oddity::ALL {
        counter!(ODDITIES, "consumer" => consumer, "kind" => oddity.as_str()).increment(0);
    }
    counter!(REREAD, "consumer" => consumer).increment(0);
    counter!(REGRESSIONS, "consumer" => consumer).increment(0);
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

/// Describes what all users of PostgreSQL have in common, and sets it to 0.
pub(crate) fn describe_common() {
    describe_counter!(POSTGRES_CONNECTIONS, "Attempts to connect to PostgreSQL, by result");
    for result in POSTGRES_RESULTS {
        counter!(POSTGRES_CONNECTIONS, "result" => result).increment(0);
    }
    latency::describe();
}

/// Label values of [`POSTGRES_CONNECTIONS`].
pub const POSTGRES_RESULTS: [&str; 2] = ["ok", "failed"];

/// Describes the relay's metrics and sets its counters to 0.
pub fn describe_relay() {
    describe_counter!(RELAYED, "Messages that the relay has published");
    describe_gauge!(
        RELAY_WAITING,
        "Messages waiting to be published, at most 100000; every process exports the same value, so use the maximum, not the sum"
    );
    describe_gauge!(
        RELAY_AGE,
        Unit::Seconds,
        "Age of the message that has waited longest to be published; use the maximum"
    );
    describe_gauge!(
        RELAY_PARKED,
        "Messages that Kafka rejects permanently, and those that wait behind them; use the maximum"
    );
    for source in ["outbox", "dead_letters"] {
        counter!(RELAYED, "source" => source).increment(0);
        for name in [RELAY_WAITING, RELAY_AGE, RELAY_PARKED] {
            metrics::gauge!(name, "source" => source).set(0);
        }
    }
}
