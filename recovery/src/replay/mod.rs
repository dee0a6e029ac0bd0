//! Puts records that were read before into the live state again: what is known does nothing, what is missing takes effect.
//!
//! Two steps. [`plan`] reads the selected records and runs the real fold on them, over a private copy of the rows that they
//! concern ([`overlay`]): nothing is written, and no live row is locked. What would take effect is kept as a plan under its
//! hash. [`apply`] does exactly that plan, chunk by chunk, each chunk one transaction with its progress; a chunk that would
//! do anything else than was planned is not committed.
//!
//! Invariants:
//! - the consumers' offsets never move, and only records that the live consumer has passed are read: what lies behind its
//!   offset it will read itself;
//! - an event takes effect once and an effect fires once, by the same unique indexes as in live traffic;
//! - which records make up a chunk depends on the plan's ranges alone, so that a plan can be continued after a kill.
//!
//! A chunk may also turn out differently because live traffic brought one of its events, or fired one of its effects, after
//! the plan was made. That is a deviation too: the plan is refused from there on, and a new one has what is left.

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

/// Most records in one transaction. Small, so that live batches never wait long for an order.
pub const CHUNK_RECORDS: usize = 500;
/// Most bytes in one transaction, about.
pub const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// What a replay runs on.
pub struct Replay<'a> {
    /// Where the records are.
    pub kafka: &'a KafkaConfig,
    /// Where the state is.
    pub postgres: &'a PostgresConfig,
    /// The consumers whose records are replayed.
    pub consumers: &'a [Consumer],
    /// The time of day.
    pub clock: &'a dyn Clock,
    /// Ends the replay between two chunks.
    pub stop: CancellationToken,
    /// Most selected records per second.
    pub rate: NonZeroU32,
    /// Who plans or applies.
    pub by: &'a str,
    /// Why a plan is applied; kept with its run. A dry run needs none.
    pub why: &'a str,
}

/// A consumer, as far as replays are concerned.
pub struct Consumer {
    pub(crate) name: &'static str,
    pub(crate) topics: Vec<String>,
    fold: Arc<dyn Fold>,
}

impl Consumer {
    /// The consumer of these topics.
    pub fn new<P: Projection>(projection: P, topics: Vec<String>) -> Self {
        Self { name: projection.name(), topics, fold: Arc::new(projection) }
    }
}

/// A projection whose type of event does not matter.
trait Fold: Send + Sync {
    fn fold<'a>(
        &'a self,
        transaction: &'a mut PgConnection,
        records: &'a [Record],
        refused: Option<&'a DeadReason>,
        now: DateTime<Utc>,
    ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;
}

impl<P: Projection> Fold for P {
    fn fold<'a>(
        &'a self,
        transaction: &'a mut PgConnection,
        records: &'a [Record],
        refused: Option<&'a DeadReason>,
        now: DateTime<Utc>,
    ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>> {
        Box::pin(async move { batch::fold(transaction, self, records, refused, now).await.map(drop) })
    }
}

/// Who watches a replay.
pub trait Observer: Send {
    /// The ranges hold this many records, of which `done` have been read before.
    fn begin(&mut self, total: u64, done: u64);
    /// So far this many of them have been read, and `selected` were selected.
    fn progress(&mut self, read: u64, selected: u64);
    /// Something that people should know.
    fn say(&mut self, text: &str);
}
