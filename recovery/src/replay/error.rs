//! Why a replay cannot be planned or done.

use chrono::{DateTime, Utc};
use rdkafka::error::KafkaError;

use riverlock_ledger::{Error, postgres::cluster::ClusterError, reading::ranges::RangeError};

/// Why a replay cannot be planned or done.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum ReplayError {
    #[error("Kafka could not {what}")]
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
    #[error("{topic} is no raw topic and no event type with a topic of its own; there are {}", .known.join(", "))]
    UnknownTopic { topic: String, known: Vec<String> },
    #[error("there is no partition {partition}: the selected topics have partitions 0 to {last}")]
    UnknownPartition { partition: i32, last: i32 },
    #[error("the range {0}..{1} is empty; expected a first offset, and one after the last")]
    EmptyOffsets(i64, i64),
    #[error("the time from {0} until {1} is empty")]
    EmptyTime(DateTime<Utc>, DateTime<Utc>),
    #[error(
        "Kafka has {topic}[{partition}] from offset {low} up to, not including, {high}; {start}..{end} is not all there"
    )]
    NotInKafka { topic: String, partition: i32, low: i64, high: i64, start: i64, end: i64 },
    #[error(
        "{consumer} has read {topic}[{partition}] up to offset {reached} and will read what follows itself; there is \
         nothing to replay in {start}..{end}"
    )]
    NotReached { consumer: &'static str, topic: String, partition: i32, reached: i64, start: i64, end: i64 },
    #[error("no record that a consumer has read is in what was selected; there is nothing to replay")]
    Empty,
    #[error("there is no plan {0}; a dry run makes one and prints its hash")]
    UnknownPlan(String),
    #[error("{0} is no plan's hash; expected at least {1} hexadecimal digits")]
    BadHash(String, usize),
    #[error("{0} may mean several plans; give more digits of the hash")]
    AmbiguousPlan(String),
    #[error("plan {plan} was done {when} by {by}; a new dry run says whether anything is left")]
    AlreadyDone { plan: String, when: DateTime<Utc>, by: String },
    #[error("plan {0} is being done by another process at this moment")]
    Busy(String),
    #[error(
        "{consumer} stands at offset {reached} of {topic}[{partition}], before the plan's end {end}: the database was \
         restored since. Let the consumer catch up, then plan again"
    )]
    ConsumerWentBack { consumer: &'static str, topic: String, partition: i32, reached: i64, end: i64 },
    #[error(
        "plan {plan} does not hold any more: chunk {chunk} was planned to have {planned} and would have {found} now. \
         Nothing of this chunk was committed; the {done} chunks before it are. Plan again: a new dry run has what is left"
    )]
    Deviates { plan: String, chunk: u64, planned: String, found: String, done: u64 },
    #[error("plan {0} was made again while it was being done; what was done stays, the new plan has what is left")]
    Superseded(String),
    #[error("stopped before the end; a dry run that is not finished leaves no plan")]
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
