//! Errors of planning and applying a replay.

use chrono::{DateTime, Utc};
use rdkafka::error::KafkaError;

use riverlock_ledger::{Error, postgres::cluster::ClusterError, reading::ranges::RangeError};

/// Why a replay cannot be planned or applied.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum ReplayError {
    #[error("cannot {what}")]
    Kafka {
        what: &'static str,
        #[source]
        source: KafkaError,
    },
    #[error(transparent)]
    Range(#[from] RangeError),
    #[error(transparent)]
    Ledger(#[from] Error),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("plan {plan} reads {topic}, of an earlier Kafka cluster; make a new plan")]
    EarlierCluster { plan: String, topic: String },
    #[error("unknown topic {topic}; known topics: {}; --type selects an event type", .known.join(", "))]
    UnknownTopic { topic: String, known: Vec<String> },
    #[error("there is no partition {partition}: the selected topics have partitions 0 to {last}")]
    UnknownPartition { partition: i32, last: i32 },
    #[error("the offset range {0}..{1} is empty; expected the first offset and the one after the last")]
    EmptyOffsets(i64, i64),
    #[error("the time from {0} until {1} is empty")]
    EmptyTime(DateTime<Utc>, DateTime<Utc>),
    #[error(
        "Kafka has offsets {low} to {high} (exclusive) of {topic}[{partition}]; {start}..{end} is not completely there"
    )]
    NotInKafka { topic: String, partition: i32, low: i64, high: i64, start: i64, end: i64 },
    #[error(
        "{consumer} has read {topic}[{partition}] up to offset {reached} and will read the following records itself; there is \
         nothing to replay in {start}..{end}"
    )]
    NotReached { consumer: &'static str, topic: String, partition: i32, reached: i64, start: i64, end: i64 },
    #[error("the selection contains no record that a consumer has read; there is nothing to replay")]
    Empty,
    #[error("there is no plan {0}; a dry run creates one and prints its hash")]
    UnknownPlan(String),
    #[error("`{0}` is not a plan hash; expected at least {1} hexadecimal digits")]
    BadHash(String, usize),
    #[error("several plan hashes begin with {0}; give more digits")]
    AmbiguousPlan(String),
    #[error("plan {plan} was applied {when} by {by}; a new dry run shows whether anything is left")]
    AlreadyDone { plan: String, when: DateTime<Utc>, by: String },
    #[error("plan {0} is already being applied by another process")]
    Busy(String),
    #[error(
        "the offset of {consumer} for {topic}[{partition}] is {reached}, before the plan's end {end}: the database was \
         restored after planning. Let the consumer catch up, then plan again"
    )]
    ConsumerRegressed { consumer: &'static str, topic: String, partition: i32, reached: i64, end: i64 },
    #[error(
        "plan {plan} no longer applies: chunk {chunk} was planned to have {planned}, but now has {found}. \
         This chunk was not committed; the {done} chunks before it were. Plan again: a new dry run covers what is left"
    )]
    Deviates { plan: String, chunk: u64, planned: String, found: String, done: u64 },
    #[error(
        "plan {0} was made again while it was being applied; committed chunks stay, the new plan covers what is left"
    )]
    Superseded(String),
    #[error("stopped before the end; an unfinished dry run leaves no plan")]
    Stopped,
    #[error("the reading thread panicked")]
    Panicked,
}

impl From<sqlx::Error> for ReplayError {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}

impl ReplayError {
    pub(super) fn kafka(what: &'static str) -> impl FnOnce(KafkaError) -> Self {
        move |source| Self::Kafka { what, source }
    }
}
