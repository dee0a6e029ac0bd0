//! Rebuild: computes all tables again from the topics in a separate schema, compares them with the live tables, and
//! swaps them in.
//!
//! Building reads every raw topic from its beginning with the ledger's own batches: offsets are committed with the
//! rows, so that a build that was killed resumes. Comparing happens at one exact set of offsets: the live tables are
//! read in one snapshot, and the rebuilt tables are brought to that snapshot's offsets. Swapping is one transaction,
//! with all consumers stopped; the former tables are kept in a schema and can be swapped back in the same way.
//!
//! There is no relay for tables that are being built: nothing is published from them.

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

/// Default name of the schema that is built in.
pub const SCHEMA: &str = "riverlock_rebuild";

/// Consumer offsets, by consumer, topic number and partition.
pub type Offsets = BTreeMap<(String, i16, i32), i64>;

/// Why the tables cannot be rebuilt, compared or swapped.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// PostgreSQL failed or is unavailable.
    #[error(transparent)]
    Ledger(#[from] Error),
    /// The tables could not be created.
    #[error("cannot create the tables of schema {schema}")]
    Migrate {
        /// The schema.
        schema: String,
        /// The failed migration.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// Kafka did not answer.
    #[error("Kafka request failed")]
    Kafka(#[from] KafkaError),
    /// Records could not be read.
    #[error(transparent)]
    Ranges(#[from] RangeError),
    /// Kafka is not the cluster that the live tables belong to.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Some records of the live tables come from an earlier Kafka cluster.
    #[error(
        "the live tables contain records of the earlier Kafka cluster {0}, which the current cluster does not have: they cannot be \
         rebuilt from it. Nothing was changed; single orders can still be refolded"
    )]
    EarlierCluster(String),
    /// Kafka has deleted the first records, so that their effects cannot be rebuilt.
    #[error(
        "Kafka has {topic}[{partition}] only from offset {low}: the records before it were deleted, and tables without their effects \
         would be incomplete. Nothing was changed; single orders can still be refolded"
    )]
    Expired {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The first offset that Kafka has.
        low: i64,
    },
    /// The live consumers have read records that Kafka does not have.
    #[error(
        "{topic}[{partition}] ends at offset {high}, but the consumers have read up to {end}: the topic lost records"
    )]
    Lost {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The end offset in Kafka.
        high: i64,
        /// The consumers' offset.
        end: i64,
    },
    /// An unusable schema name, or a schema that belongs to something else.
    #[error("{0}")]
    Schema(String),
    /// A schema has tables that are not in [`tables::TABLES`].
    #[error("schema {schema} does not have the tables that this version rebuilds: {}", names.join(", "))]
    Tables {
        /// The schema.
        schema: String,
        /// The missing or surplus tables.
        names: Vec<String>,
    },
    /// The live tables are not at this version.
    #[error("the live tables lack {0} migrations; `riverlock setup` runs them")]
    NotMigrated(usize),
    /// Another process holds the rebuild lock.
    #[error("another `riverlock rebuild` is running on this database")]
    Busy,
    /// A part was built by another version or with other settings, which may decide differently about records.
    #[error("schema {0} was begun by another version or with other settings; --fresh drops it and starts over")]
    Mixed(String),
    /// A service is still running.
    #[error("services must be stopped before the tables are swapped: {0}")]
    Running(String),
    /// The live offsets changed in every attempt to swap.
    #[error("the live offsets changed in every attempt to swap the tables: a consumer is running")]
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

/// What to build.
#[derive(Clone, Debug)]
pub struct RebuildPlan {
    /// The schema to build in: [`SCHEMA`], or a kept schema, to swap it back.
    pub schema: String,
    /// Identifies the program and the settings that decide about records. A build is resumed only with the same
    /// fingerprint.
    pub fingerprint: String,
    /// Whether to drop what was built before.
    pub fresh: bool,
    /// The consumers, with the topics that each reads.
    pub consumers: Vec<(&'static str, Vec<String>)>,
}

/// Tables that are being rebuilt beside the live ones.
pub struct Rebuild {
    kafka: KafkaConfig,
    /// The live tables.
    live: PostgresConfig,
    live_schema: String,
    /// The tables being built.
    shadow: PostgresConfig,
    shadow_schema: String,
    consumers: Vec<(&'static str, Vec<String>)>,
    /// Holds the advisory lock that allows only one rebuild at a time.
    guard: PgConnection,
}
