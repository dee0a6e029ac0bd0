//! Builds all tables again from the topics, in a schema of their own; compares them with the live ones; takes their place.
//!
//! Building reads every raw topic from its beginning, with the ledger's own batches, so offsets are moved with the rows and a
//! build that was killed goes on where it stood. Comparing happens at exactly one vector of offsets: the live tables are seen
//! in one snapshot, and the rebuilt ones stand where that snapshot's offsets do. Swapping is one transaction, with all
//! consumers stopped; the former tables stay in a schema that can take their place again in the same way.
//!
//! Deliberately absent: a relay. Nothing is ever published from tables that are being built.

mod build;
mod change;
mod compare;
mod differ;
pub mod events;
mod shadow;
mod store;
mod swap;
pub mod tables;

use std::collections::BTreeMap;

use rdkafka::error::KafkaError;
use riverlock_runtime::kafka::KafkaConfig;
use sqlx::PgConnection;

pub use self::{
    compare::{Report, Snapshot, TableReport},
    differ::Difference,
    swap::{FormerTables, Reason},
};
pub use crate::rebuild::change::Change;
use riverlock_ledger::{Error, PostgresConfig, postgres::cluster::ClusterError, reading::ranges::RangeError};

/// The schema that is built in, unless another is named.
pub const SCHEMA: &str = "riverlock_rebuild";

/// Where the consumers stand: per consumer, topic number and partition, the next offset.
pub type Offsets = BTreeMap<(String, i16, i32), i64>;

/// The tables could not be built again, compared or swapped.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// PostgreSQL refused, or could not be reached.
    #[error(transparent)]
    Ledger(#[from] Error),
    /// The tables could not be made.
    #[error("the tables of schema {schema} could not be made")]
    Migrate {
        /// Which schema.
        schema: String,
        /// What is wrong.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// Kafka did not answer.
    #[error("Kafka could not be asked")]
    Kafka(#[from] KafkaError),
    /// Records could not be read.
    #[error(transparent)]
    Ranges(#[from] RangeError),
    /// Kafka is not the cluster that the live tables belong to.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Some of what the live tables hold comes from a cluster that is not the current one.
    #[error(
        "the live tables hold records of the earlier Kafka cluster {0}, which the current one does not have: they cannot be \
         built again from it. Nothing was changed; single orders can still be refolded"
    )]
    EarlierCluster(String),
    /// The first records are gone, so what they did cannot be built again.
    #[error(
        "Kafka begins {topic}[{partition}] at offset {low}: the records before it are gone, and tables without what they did \
         are not these tables. Nothing was changed; single orders can still be refolded"
    )]
    Expired {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The first offset that Kafka has.
        low: i64,
    },
    /// The live tables know more than Kafka.
    #[error(
        "Kafka ends {topic}[{partition}] at offset {high}, but the consumers have read up to {end}: the topic lost records"
    )]
    Lost {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Where Kafka ends.
        high: i64,
        /// Where the consumers stand.
        end: i64,
    },
    /// A name that cannot be used.
    #[error("{0}")]
    Schema(String),
    /// There are tables that nobody said what to do with.
    #[error("schema {schema} has not the tables that this version rebuilds: {}", names.join(", "))]
    Tables {
        /// Which schema.
        schema: String,
        /// The tables that are missing, or too many.
        names: Vec<String>,
    },
    /// The live tables are not at this version.
    #[error("the live tables lack {0} migrations; `riverlock setup` runs them")]
    NotMigrated(usize),
    /// Somebody else is at it.
    #[error("another `riverlock rebuild` works in this database")]
    Busy,
    /// Part was built by another program or with other settings, which may decide otherwise.
    #[error("schema {0} was begun by another version or with other settings; --fresh drops it and begins again")]
    Mixed(String),
    /// A service still runs.
    #[error("services must be stopped before the tables are swapped: {0}")]
    Running(String),
    /// The consumers moved while everything was locked to them.
    #[error("the live offsets moved again and again while the tables were to be swapped: a consumer runs")]
    Moved,
    /// A reading thread panicked; the log says where.
    #[error("a reading thread panicked")]
    Panicked,
}

impl From<sqlx::Error> for RebuildError {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}

/// What is to be built.
#[derive(Clone, Debug)]
pub struct RebuildPlan {
    /// The schema that is built in: [`SCHEMA`], or one that was kept, to go back to it.
    pub schema: String,
    /// What decides about records: the program and its settings. What was begun with one fingerprint is not continued with
    /// another.
    pub fingerprint: String,
    /// Whether to drop what was built before.
    pub fresh: bool,
    /// The consumers, with the topics that each reads.
    pub consumers: Vec<(&'static str, Vec<String>)>,
}

/// Tables that are being built again, beside the live ones.
pub struct Rebuild {
    kafka: KafkaConfig,
    /// The live tables.
    live: PostgresConfig,
    live_schema: String,
    /// The tables that are built.
    shadow: PostgresConfig,
    shadow_schema: String,
    consumers: Vec<(&'static str, Vec<String>)>,
    /// Has the lock that makes this the only rebuild, for as long as it lives.
    guard: PgConnection,
}
