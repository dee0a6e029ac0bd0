//! Replay: reads past records again and applies those that are missing. Records that have an outcome are skipped.
//!
//! There are two steps. [`plan`] reads the selected records and processes them as live consumers do, but on private
//! copies of the affected rows ([`overlay`]): nothing is written to the live tables, and no live row is locked. The
//! result is stored as a plan, identified by its hash. [`apply`] executes exactly that plan, chunk by chunk; each chunk
//! and its progress are one transaction. A chunk whose result differs from the plan is not committed.
//!
//! Invariants:
//! - consumer offsets never change, and only records before the live consumer's offset are read; the consumer itself
//!   will read the rest;
//! - an event is applied once and an effect fires once, enforced by the same unique indexes as in live traffic;
//! - the records of a chunk depend only on the plan's ranges, so that a plan can be resumed after a kill.
//!
//! A chunk's result can also differ because live traffic delivered one of its events, or fired one of its effects,
//! after the plan was made. This is a deviation too: the rest of the plan is rejected, and a new plan contains what is
//! left.

mod apply;
mod chunk;
mod error;
mod input;
mod model;
mod overlay;
mod plan;
mod report;
mod runs;
mod selection;
mod store;

use std::{future::Future, num::NonZeroU32, pin::Pin, sync::Arc};

use chrono::{DateTime, Utc};
use riverlock_runtime::{Clock, kafka::KafkaConfig};
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

pub use self::{
    apply::{ReplayResult, apply},
    error::ReplayError,
    plan::{PlanSummary, plan},
    report::Report,
    runs::{RunView, runs},
};
pub use crate::replay::model::{Effect, OrderChange, Selection};
pub use input::pace::RATE_DEFAULT;
use riverlock_ledger::{DeadReason, Error, PostgresConfig, Projection, Record, batch};

/// Most records in one transaction; small, so that live batches never wait long for an order.
pub const CHUNK_RECORDS: usize = 500;
/// Approximate limit of the bytes in one transaction.
pub const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// Connections and settings of a replay.
pub struct Replay<'a> {
    /// Kafka, which has the records.
    pub kafka: &'a KafkaConfig,
    /// PostgreSQL, which has the state.
    pub postgres: &'a PostgresConfig,
    /// The consumers whose records are replayed.
    pub consumers: &'a [Consumer],
    /// The clock for stored times.
    pub clock: &'a dyn Clock,
    /// Stops the replay between two chunks.
    pub stop: CancellationToken,
    /// Most selected records per second.
    pub rate: NonZeroU32,
    /// The operator who plans or applies.
    pub by: &'a str,
    /// Why a plan is applied; stored with its run. A dry run needs no reason.
    pub why: &'a str,
}

/// A consumer whose records can be replayed.
pub struct Consumer {
    pub(crate) name: &'static str,
    pub(crate) topics: Vec<String>,
    applier: Arc<dyn Applier>,
}

impl Consumer {
    /// The consumer of these topics.
    pub fn new<P: Projection>(projection: P, topics: Vec<String>) -> Self {
        Self { name: projection.name(), topics, applier: Arc::new(projection) }
    }
}

/// A [`Projection`] without its event type, so that consumers can be stored in one list.
trait Applier: Send + Sync {
    fn apply<'a>(
        &'a self,
        transaction: &'a mut PgConnection,
        records: &'a [Record],
        rejected: Option<&'a DeadReason>,
        now: DateTime<Utc>,
    ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;
}

impl<P: Projection> Applier for P {
    fn apply<'a>(
        &'a self,
        transaction: &'a mut PgConnection,
        records: &'a [Record],
        rejected: Option<&'a DeadReason>,
        now: DateTime<Utc>,
    ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>> {
        Box::pin(async move { batch::apply_within(transaction, self, records, rejected, now).await.map(drop) })
    }
}

/// Receives the progress of a replay.
pub trait Observer: Send {
    /// The ranges have `total` records, of which `done` were read by an earlier run.
    fn begin(&mut self, total: u64, done: u64);
    /// So far `read` records have been read, and `selected` of them were selected.
    fn progress(&mut self, read: u64, selected: u64);
    /// A message for the operator.
    fn say(&mut self, text: &str);
}
