//! Refold: recomputes single orders from their audited events, for example after a bug fix.
//!
//! An order is a function of its events, and the audit records which events those are. So an order can be recomputed with the
//! current code, compared with the stored rows, and replaced: rows that no event supports are deleted. Bodies are read without
//! a lock. An order is written only if, while its row is locked, the set of its audited events is still the one that was read.
//! Each effect fires at most once, whether live processing or a refold causes it.
//!
//! An order for which Kafka no longer has every record is left unchanged; it is never recomputed from a part of them.

mod differ;
mod obstacle;
mod recompute;
mod select;
mod store;

use std::collections::BTreeMap;

use riverlock_ledger::{
    Error, PostgresConfig,
    alive::{session_of, while_alive},
    error::{Disposition, explain},
    outbox,
    postgres::{
        TRANSACTION_LIMIT, bounded,
        cluster::{self, ClusterError},
    },
    reading::{positions::PositionReader, ranges::RangeError},
};
use riverlock_runtime::{Clock, kafka::KafkaConfig};
use riverlock_schemas::cloud_event::Message;
use sqlx::{Acquire as _, PgConnection};

use crate::{
    Orders,
    domain::{Facts, OrderKey, effects},
    refold::obstacle::ROUNDS_MAX,
    store::{Change as Write, FiredEffects, inconsistent_effects, write},
};

use self::{
    recompute::RecomputedOrder,
    select::Pages,
    store::{AuditedRecord, Part, Rows},
};

pub use self::{
    differ::{Change, OrderDiff},
    select::Selection,
};
pub use obstacle::Obstacle;

/// The reader's consumer group, which names it in Kafka's logs.
const GROUP: &str = "refold";
/// Orders written in one transaction. Limits how long live traffic can wait for a locked order.
const WRITE_ORDERS_MAX: usize = 50;

/// A refold failed. Orders written before the failure stay written: each is written completely or not at all.
#[derive(Debug, thiserror::Error)]
pub enum RefoldError {
    /// PostgreSQL returned an error or is unavailable.
    #[error(transparent)]
    Ledger(#[from] Error),
    /// Kafka could not be read.
    #[error(transparent)]
    Kafka(#[from] RangeError),
    /// Kafka is not the cluster that the database belongs to.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The reading thread panicked; the log says where.
    #[error("the reading thread panicked")]
    Panicked,
}

impl From<sqlx::Error> for RefoldError {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}

/// The result for one order.
#[derive(Clone, Debug)]
pub enum RefoldFinding {
    /// The stored order differs from the recomputed one; it was written if the plan applies changes.
    Differs(OrderDiff),
    /// The order cannot be recomputed and is left unchanged.
    Blocked(OrderKey, Obstacle),
    /// A row has an invalid order id and is left unchanged.
    Unreadable(String),
}

/// Numbers of orders by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Orders that were recomputed.
    pub recomputed: u64,
    /// Orders whose stored rows differ from the recomputed ones.
    pub differing: u64,
    /// Orders that were written.
    pub written: u64,
    /// Orders that cannot be recomputed.
    pub blocked: u64,
    /// Effects that had not fired; their messages are added to the outbox if the plan applies changes.
    pub effects: u64,
}

/// Operator and reason, stored with the previous rows of the orders.
#[derive(Clone, Debug)]
pub struct Reason {
    /// The operator.
    pub by: String,
    /// The reason that the operator gave.
    pub why: String,
}

/// Which orders to refold, and whether to write them.
pub struct RefoldPlan<'a> {
    /// The orders to refold.
    pub selection: Selection,
    /// The projection with the current code and configuration.
    pub orders: Orders,
    /// Topics whose records another consumer applies.
    pub other_topics: Vec<String>,
    /// Operator and reason; `None` is a dry run.
    pub apply: Option<Reason>,
    /// The clock for timestamps of written rows.
    pub clock: &'a dyn Clock,
}

/// Refolds orders. Calls `found` for each order that differs or cannot be recomputed, and `progress` with the number of
/// finished orders and the estimated total.
///
/// # Errors
/// When Kafka or PostgreSQL is unavailable or belongs to another install.
pub async fn run(
    kafka: &KafkaConfig,
    postgres: &PostgresConfig,
    plan: RefoldPlan<'_>,
    found: &mut (dyn FnMut(RefoldFinding) + Send),
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Tally, RefoldError> {
    let mut live = postgres.connect().await?;
    cluster::ensure_current(kafka, &mut live).await?;
    let mut scratch = postgres.in_schema("pg_temp").connect().await?;
    let parts = bounded(TRANSACTION_LIMIT, store::parts(&mut live)).await?;
    bounded(TRANSACTION_LIMIT, store::make_scratch(&mut scratch, &mut live, &parts)).await?;
    // Selecting orders may read the whole table, so the statement has no timeout.
    let session = session_of(postgres, &mut live).await?;
    let mut pages = while_alive(postgres, &[session], Pages::new(&mut live, plan.selection.clone())).await?;
    let total = pages.total;
    let mut refold = Refold {
        plan,
        live,
        scratch,
        parts,
        reader: Some(PositionReader::open(kafka, GROUP)?),
        unavailable: BTreeMap::new(),
        tally: Tally::default(),
        found,
    };
    while let Some(page) = bounded(TRANSACTION_LIMIT, pages.next(&mut refold.live)).await? {
        for row in page.unreadable {
            refold.tally.blocked += 1;
            (refold.found)(RefoldFinding::Unreadable(row));
        }
        let mut left = page.keys;
        for round in 0.. {
            if left.is_empty() {
                break;
            }
            if round == ROUNDS_MAX {
                left.drain(..).for_each(|key| refold.block(key, Obstacle::Moving));
                break;
            }
            left = refold.page(&left).await?;
        }
        let done = refold.tally.recomputed + refold.tally.blocked;
        progress(done, total.max(done));
    }
    Ok(refold.tally)
}

struct Refold<'a> {
    plan: RefoldPlan<'a>,
    live: PgConnection,
    /// A session that sees only its temporary tables. Recomputed orders are written there to compare their rows.
    scratch: PgConnection,
    parts: Vec<Part>,
    /// `None` while a blocking thread uses it.
    reader: Option<PositionReader>,
    /// Partitions that could not be read, with the reason. They are not tried again in this run.
    unavailable: BTreeMap<(String, i32), String>,
    tally: Tally,
    found: &'a mut (dyn FnMut(RefoldFinding) + Send),
}

/// A recomputed order that differs from the stored one.
struct PendingOrder {
    key: OrderKey,
    facts: Facts,
    newly_applied: Vec<AuditedRecord>,
    audited: Vec<AuditedRecord>,
    rows: Rows,
    messages: Vec<Message>,
    diff: OrderDiff,
}

impl Refold<'_> {
    /// Recomputes a page of orders. Returns those that must be recomputed because new events arrived meanwhile.
    async fn page(&mut self, keys: &[OrderKey]) -> Result<Vec<OrderKey>, RefoldError> {
        let (mut audited, stored, mut fired) = bounded(TRANSACTION_LIMIT, self.read(keys)).await?;
        let mut recomputed = self.recompute_readable(&audited).await?;
        let mut known = Vec::new();
        for key in keys {
            match recomputed.remove(key) {
                Some(RecomputedOrder { obstacle: Some(obstacle), .. }) => self.block(key.clone(), obstacle),
                Some(recomputed) if recomputed.is_known() => known.push((key.clone(), recomputed)),
                // No event applies and no row is stored: the order does not exist.
                _ if !stored.contains_key(key) => {}
                _ => self.block(key.clone(), Obstacle::NoEvents),
            }
        }
        let mut expected = bounded(TRANSACTION_LIMIT, self.expected(&known)).await?;
        let mut wanted = Vec::new();
        for (key, recomputed) in known {
            let Some(rows) = expected.remove(&key) else { continue };
            self.tally.recomputed += 1;
            let before = stored.get(&key).cloned().unwrap_or_default();
            let mut diff = OrderDiff::new(&key, differ::changes(&self.parts, &before, &rows));
            let messages = effects::new_messages(&key, &Facts::default(), &recomputed.facts);
            let missing = fired.entry(key.clone()).or_default().fire(messages.clone(), self.plan.clock.now());
            let missing = missing.map_err(|error| inconsistent_effects(&key, &error))?;
            diff.effects = missing.iter().map(Message::kind).collect();
            diff.newly_applied = recomputed.newly_applied.iter().map(|record| record.position.to_string()).collect();
            if !diff.is_empty() {
                let (facts, newly_applied) = (recomputed.facts, recomputed.newly_applied);
                let audited = audited.remove(&key).unwrap_or_default();
                wanted.push(PendingOrder { key, facts, newly_applied, audited, rows, messages, diff });
            }
        }
        self.finish(wanted).await
    }

    /// Reads the audited records, rows and fired effects of orders from one consistent snapshot.
    async fn read(
        &mut self,
        keys: &[OrderKey],
    ) -> Result<
        (BTreeMap<OrderKey, Vec<AuditedRecord>>, BTreeMap<OrderKey, Rows>, BTreeMap<OrderKey, FiredEffects>),
        Error,
    > {
        let mut transaction = self.live.begin().await?;
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut *transaction).await?;
        let audited = store::audited(&mut transaction, keys, &self.plan.other_topics).await?;
        let stored = store::rows(&mut transaction, &self.parts, keys).await?;
        let fired = store::fired(&mut transaction, keys).await?;
        transaction.commit().await?;
        Ok((audited, stored, fired))
    }

    /// Recomputes the orders whose records can be read. A partition that cannot be read only affects the orders that need it.
    async fn recompute_readable(
        &mut self,
        audited: &BTreeMap<OrderKey, Vec<AuditedRecord>>,
    ) -> Result<BTreeMap<OrderKey, RecomputedOrder>, RefoldError> {
        let mut readable = audited.clone();
        let mut blocked = BTreeMap::new();
        let mut unavailable = self.unavailable.clone();
        loop {
            readable.retain(|key, records| match unavailable_reason(records, &unavailable) {
                Some(reason) => {
                    blocked.insert(key.clone(), RecomputedOrder::blocked(Obstacle::Unavailable(reason)));
                    false
                }
                None => true,
            });
            match self.recompute(&readable).await {
                Ok(mut recomputed) => {
                    recomputed.append(&mut blocked);
                    return Ok(recomputed);
                }
                Err(RefoldError::Kafka(error)) => {
                    let Some((topic, partition)) = error.partition() else { return Err(error.into()) };
                    tracing::warn!(%error, "orders with records in {topic}[{partition}] are left unchanged: {error}");
                    let partition = (topic.to_owned(), partition);
                    if !matches!(error, RangeError::Gone { .. }) {
                        // The timeout would be spent again for every page.
                        self.unavailable.insert(partition.clone(), error.to_string());
                    }
                    unavailable.insert(partition, error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads records and recomputes orders on a blocking thread.
    async fn recompute(
        &mut self,
        audited: &BTreeMap<OrderKey, Vec<AuditedRecord>>,
    ) -> Result<BTreeMap<OrderKey, RecomputedOrder>, RefoldError> {
        let (audited, orders) = (audited.clone(), self.plan.orders.clone());
        let mut reader = self.reader.take().ok_or(RefoldError::Panicked)?;
        let work = move || {
            let recomputed = recompute::recompute(&mut reader, &orders, &audited);
            (reader, recomputed)
        };
        let (reader, recomputed) = tokio::task::spawn_blocking(work).await.map_err(|_| RefoldError::Panicked)?;
        self.reader = Some(reader);
        Ok(recomputed?)
    }

    /// The rows that writing the recomputed orders would produce. Orders that the database rejects are reported here.
    async fn expected(
        &mut self,
        orders: &[(OrderKey, RecomputedOrder)],
    ) -> Result<BTreeMap<OrderKey, Rows>, RefoldError> {
        let now = self.plan.clock.now();
        let mut expected = BTreeMap::new();
        let mut parts = vec![orders];
        while let Some(part) = parts.pop() {
            let writes: Vec<Write> =
                part.iter().map(|(key, recomputed)| new_write(key, &recomputed.facts, 1)).collect();
            let keys: Vec<OrderKey> = part.iter().map(|(key, _)| key.clone()).collect();
            let mut transaction = self.scratch.begin().await?;
            match write(&mut transaction, &writes, now).await {
                Ok(()) => expected.extend(store::rows(&mut transaction, &self.parts, &keys).await?),
                Err(error) if error.disposition() != Disposition::Isolate => return Err(error.into()),
                Err(error) if part.len() == 1 => refuse_for(&mut self.tally, self.found, &part[0].0, &error),
                Err(_) => {
                    let (a, b) = part.split_at(part.len() / 2);
                    parts.extend([a, b]);
                }
            }
            transaction.rollback().await?;
        }
        Ok(expected)
    }

    /// Reports the differences and, if the plan applies changes, writes them. Returns the orders whose events changed
    /// meanwhile.
    async fn finish(&mut self, wanted: Vec<PendingOrder>) -> Result<Vec<OrderKey>, RefoldError> {
        let Some(reason) = self.plan.apply.clone() else {
            for order in wanted {
                self.report(order.diff);
            }
            return Ok(Vec::new());
        };
        let mut moved = Vec::new();
        let mut parts: Vec<&[PendingOrder]> = wanted.chunks(WRITE_ORDERS_MAX).collect();
        let mut reported = Vec::new();
        while let Some(part) = parts.pop() {
            match bounded(TRANSACTION_LIMIT, self.write(part, &reason)).await {
                Ok(late) => {
                    self.tally.recomputed -= late.len() as u64;
                    for order in part.iter().filter(|order| !late.contains(&order.key)) {
                        self.tally.written += 1;
                        reported.push(order.diff.clone());
                    }
                    moved.extend(late);
                }
                Err(error) if part.len() > 1 && error.leaves_connection_usable() => {
                    let (a, b) = part.split_at(part.len() / 2);
                    parts.extend([a, b]);
                }
                Err(error) if error.disposition() == Disposition::Isolate => {
                    self.tally.recomputed -= 1;
                    refuse_for(&mut self.tally, self.found, &part[0].key, &error);
                }
                // Another transaction changed the order, or there was a deadlock: recompute it.
                Err(error) if error.leaves_connection_usable() => {
                    tracing::debug!(%error, "an order is recomputed again: {error}");
                    self.tally.recomputed -= 1;
                    moved.push(part[0].key.clone());
                }
                Err(error) => return Err(error.into()),
            }
        }
        for diff in reported {
            self.report(diff);
        }
        Ok(moved)
    }

    /// Writes, in one transaction, the orders whose audited events have not changed since they were read. Returns the others.
    async fn write(&mut self, orders: &[PendingOrder], reason: &Reason) -> Result<Vec<OrderKey>, Error> {
        let now = self.plan.clock.now();
        let keys: Vec<OrderKey> = orders.iter().map(|order| order.key.clone()).collect();
        let mut transaction = self.live.begin().await?;
        let mut locked = store::lock(&mut transaction, &keys).await?;
        let audited = store::audited(&mut transaction, &keys, &self.plan.other_topics).await?;
        let stored = store::rows(&mut transaction, &self.parts, &keys).await?;
        let unchanged =
            |order: &&PendingOrder| audited.get(&order.key).is_some_and(|audited| *audited == order.audited);
        let (current, late): (Vec<&PendingOrder>, Vec<&PendingOrder>) = orders.iter().partition(unchanged);

        let mut writes = Vec::new();
        let mut messages = Vec::new();
        for order in &current {
            let before = stored.get(&order.key).cloned().unwrap_or_default();
            let (version, mut fired) = locked.remove(&order.key).unwrap_or_default();
            let missing = fired.fire(order.messages.clone(), now);
            let missing = missing.map_err(|error| inconsistent_effects(&order.key, &error))?;
            let newly_applied: Vec<&AuditedRecord> = order.newly_applied.iter().collect();
            store::mark_applied(&mut transaction, &newly_applied).await?;
            if before != order.rows || !missing.is_empty() {
                let version = version + 1;
                let by = (reason.by.as_str(), reason.why.as_str());
                store::add_refold(&mut transaction, &order.key, version, &before, by, now).await?;
                writes.push(Write { fired, ..new_write(&order.key, &order.facts, version) });
                messages.extend(missing);
            }
        }
        let replaced: Vec<OrderKey> = writes.iter().map(|write| write.key.clone()).collect();
        store::remove_parts(&mut transaction, &self.parts, &replaced).await?;
        write(&mut transaction, &writes, now).await?;
        outbox::add(&mut transaction, &messages, now).await?;
        transaction.commit().await?;
        Ok(late.into_iter().map(|order| order.key.clone()).collect())
    }

    fn report(&mut self, diff: OrderDiff) {
        self.tally.differing += 1;
        self.tally.effects += diff.effects.len() as u64;
        (self.found)(RefoldFinding::Differs(diff));
    }

    fn block(&mut self, key: OrderKey, obstacle: Obstacle) {
        self.tally.blocked += 1;
        (self.found)(RefoldFinding::Blocked(key, obstacle));
    }
}

/// The reason why one of the records cannot be read, if there is one.
fn unavailable_reason(records: &[AuditedRecord], unavailable: &BTreeMap<(String, i32), String>) -> Option<String> {
    let needed = records.iter().filter(|record| record.kept.is_none()).map(|record| &record.body_at);
    needed.into_iter().find_map(|body| unavailable.get(&(body.topic.clone(), body.partition)).cloned())
}

/// A write that replaces the whole order.
fn new_write(key: &OrderKey, facts: &Facts, version: i32) -> Write {
    Write { key: key.clone(), before: Facts::default(), after: facts.clone(), fired: FiredEffects::default(), version }
}

fn refuse_for(tally: &mut Tally, found: &mut (dyn FnMut(RefoldFinding) + Send), key: &OrderKey, error: &Error) {
    tally.blocked += 1;
    found(RefoldFinding::Blocked(key.clone(), Obstacle::Database(explain(error))));
}
