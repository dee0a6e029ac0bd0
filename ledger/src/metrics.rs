//! Names of the consumers' metrics.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram};

/// Records by consumer and outcome.
pub const RECORDS: &str = "consumer_records_total";
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
/// Whether reading is paused because PostgreSQL does not keep up.
pub const PAUSED: &str = "consumer_paused";
/// Messages published by the relay, by kind of source.
pub const RELAYED: &str = "relay_published_total";
/// Messages that wait to be published.
pub const RELAY_WAITING: &str = "relay_waiting_messages";

/// The outcomes, as label values.
pub const OUTCOMES: [&str; 5] = ["applied", "duplicate", "ignored", "conflict", "dead"];

/// Describes the metrics of a consumer and sets its counters to 0, so that a dashboard shows 0 and not "no data".
pub fn describe(consumer: &'static str) {
    describe_counter!(RECORDS, "Records by outcome; their sum is what was read from the raw topics");
    describe_counter!(REREAD, "Records that were read again and already had their outcome");
    describe_histogram!(BATCH_SECONDS, Unit::Seconds, "Time of one batch's transaction, commit included");
    describe_histogram!(BATCH_RECORDS, "Records in one batch");
    describe_counter!(RETRIES, "Transactions that had to run again");
    describe_counter!(WENT_BACK, "Times that the database was found to lack what it once had, and was read to again");
    describe_gauge!(PARTITIONS, "Partitions that this process reads");
    describe_counter!(REBALANCES, "Rebalances of the consumer group");
    describe_gauge!(LAG, "Records in Kafka that are not yet applied");
    describe_gauge!(PAUSED, "1 while reading is paused because PostgreSQL does not keep up");
    for outcome in OUTCOMES {
        counter!(RECORDS, "consumer" => consumer, "outcome" => outcome).increment(0);
    }
    counter!(REREAD, "consumer" => consumer).increment(0);
    counter!(WENT_BACK, "consumer" => consumer).increment(0);
    for reason in [
        "connection",
        "deadlock",
        "serialization",
        "lock_timeout",
        "statement_timeout",
        "lost_race",
        "inconsistent",
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
    describe_gauge!(RELAY_WAITING, "Messages that wait to be published, at most one page of each kind");
    for source in ["outbox", "dead_letters"] {
        counter!(RELAYED, "source" => source).increment(0);
        metrics::gauge!(RELAY_WAITING, "source" => source).set(0);
    }
}
