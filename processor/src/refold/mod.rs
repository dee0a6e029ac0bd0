//! Folds orders again from their audited events, after a mistake in the code was put right.
//!
//! An order is a function of its events, and the audit says which those are. So it can be computed from nothing with today's
//! code, compared with what is stored, and written in its place: rows that no event speaks for go away, too. Bodies are read
//! without any lock; an order is written only if, under its row's lock, the set of its audited events is still the one that was
//! read. Effects fire once for ever, whoever calls for them.
//!
//! An order of which Kafka no longer has every record is refused, never folded in part.

mod differ;
mod fold;
mod refusal;
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
    refold::refusal::ROUNDS_MAX,
    store::{Change as Write, write},
};

use self::{
    fold::RecomputedOrder,
    select::Pages,
    store::{AuditedRecord, Part, Rows, Sent},
};

pub use self::{
    differ::{Change, OrderDiff},
    select::Selection,
};
pub use refusal::Refusal;

/// What the reader is called in Kafka's logs.
const GROUP: &str = "refold";
/// Orders that are written in one transaction, so that live traffic never waits long for one of them.
const WRITE_ORDERS_MAX: usize = 50;

/// Orders could not be folded again. What was written stays: each order is written whole or not at all.
#[derive(Debug, thiserror::Error)]
pub enum RefoldError {
    /// PostgreSQL refused, or could not be reached.
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

/// What was found of one order.
#[derive(Clone, Debug)]
pub enum RefoldFinding {
    /// It is stored otherwise than its events say. If that was asked for, it was written.
    Differs(OrderDiff),
    /// It is left as it is.
    Refused(OrderKey, Refusal),
    /// A row names an order that there cannot be; it is left as it is.
    Unreadable(String),
}

/// How many orders came out how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Orders that were folded.
    pub folded: u64,
    /// Orders that are stored otherwise than their events say.
    pub differing: u64,
    /// Orders that were written.
    pub written: u64,
    /// Orders that were refused.
    pub refused: u64,
    /// Messages that were called for and had not been sent; added to the outbox if orders were written.
    pub effects: u64,
}

/// Who writes, and why; kept with what the orders were before.
#[derive(Clone, Debug)]
pub struct Reason {
    /// Who.
    pub by: String,
    /// Why.
    pub why: String,
}

/// What is folded again, and what is done with it.
pub struct RefoldPlan<'a> {
    /// Which orders.
    pub selection: Selection,
    /// What today's code and configuration make of events.
    pub orders: Orders,
    /// Topics whose records another consumer applies.
    pub other_topics: Vec<String>,
    /// Who writes and why; without one, nothing is written.
    pub apply: Option<Reason>,
    /// What time it is.
    pub clock: &'a dyn Clock,
}

/// Folds orders again. `found` is told of each that differs or is refused; `progress`, how many are done, of how many, about.
///
/// # Errors
/// When Kafka or PostgreSQL does not answer.
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
    // Choosing orders may read the whole table, without a limit in time.
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
            refold.tally.refused += 1;
            (refold.found)(RefoldFinding::Unreadable(row));
        }
        let mut left = page.keys;
        for round in 0.. {
            if left.is_empty() {
                break;
            }
            if round == ROUNDS_MAX {
                left.drain(..).for_each(|key| refold.refuse(key, Refusal::Moving));
                break;
            }
            left = refold.page(&left).await?;
        }
        let done = refold.tally.folded + refold.tally.refused;
        progress(done, total.max(done));
    }
    Ok(refold.tally)
}

struct Refold<'a> {
    plan: RefoldPlan<'a>,
    live: PgConnection,
    /// A session that sees only tables of its own: what is written there shows how orders would look.
    scratch: PgConnection,
    parts: Vec<Part>,
    /// Away while a thread reads with it.
    reader: Option<PositionReader>,
    /// Partitions that could not be read, and why: they are not waited for again.
    unavailable: BTreeMap<(String, i32), String>,
    tally: Tally,
    found: &'a mut (dyn FnMut(RefoldFinding) + Send),
}

/// An order that is to be written.
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
    /// Folds a page of orders. Returns those that have to be folded again, because events came meanwhile.
    async fn page(&mut self, keys: &[OrderKey]) -> Result<Vec<OrderKey>, RefoldError> {
        let (mut audited, stored, sent) = bounded(TRANSACTION_LIMIT, self.read(keys)).await?;
        let mut folded = self.fold_readable(&audited).await?;
        let mut known = Vec::new();
        for key in keys {
            match folded.remove(key) {
                Some(RecomputedOrder { refusal: Some(refusal), .. }) => self.refuse(key.clone(), refusal),
                Some(folded) if folded.is_known() => known.push((key.clone(), folded)),
                // Nothing applies, and nothing is stored: there is no such order.
                _ if !stored.contains_key(key) => {}
                _ => self.refuse(key.clone(), Refusal::NoEvents),
            }
        }
        let mut expected = bounded(TRANSACTION_LIMIT, self.expected(&known)).await?;
        let mut wanted = Vec::new();
        for (key, folded) in known {
            let Some(rows) = expected.remove(&key) else { continue };
            self.tally.folded += 1;
            let before = stored.get(&key).cloned().unwrap_or_default();
            let mut diff = OrderDiff::new(&key, differ::changes(&self.parts, &before, &rows));
            let had = sent.get(&key).map(Vec::as_slice).unwrap_or_default();
            let messages = effects::new_messages(&key, &Facts::default(), &folded.facts);
            let unsent = |message: &&Message| {
                !had.iter().any(|(kind, effect)| kind == message.kind() && *effect == message.effect_key())
            };
            diff.effects = messages.iter().filter(unsent).map(Message::kind).collect();
            diff.newly_applied = folded.newly_applied.iter().map(|record| record.position.to_string()).collect();
            if !diff.is_empty() {
                let (facts, newly_applied) = (folded.facts, folded.newly_applied);
                let audited = audited.remove(&key).unwrap_or_default();
                wanted.push(PendingOrder { key, facts, newly_applied, audited, rows, messages, diff });
            }
        }
        self.finish(wanted).await
    }

    /// What is audited, stored and sent of orders, at one moment: these events made these rows.
    async fn read(
        &mut self,
        keys: &[OrderKey],
    ) -> Result<(BTreeMap<OrderKey, Vec<AuditedRecord>>, BTreeMap<OrderKey, Rows>, Sent), Error> {
        let mut transaction = self.live.begin().await?;
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut *transaction).await?;
        let audited = store::audited(&mut transaction, keys, &self.plan.other_topics).await?;
        let stored = store::rows(&mut transaction, &self.parts, keys).await?;
        let sent = store::messages(&mut transaction, keys).await?;
        transaction.commit().await?;
        Ok((audited, stored, sent))
    }

    /// Folds those orders whose records can be read. A partition that cannot be read costs only the orders that need it.
    async fn fold_readable(
        &mut self,
        audited: &BTreeMap<OrderKey, Vec<AuditedRecord>>,
    ) -> Result<BTreeMap<OrderKey, RecomputedOrder>, RefoldError> {
        let mut readable = audited.clone();
        let mut refused = BTreeMap::new();
        let mut unavailable = self.unavailable.clone();
        loop {
            readable.retain(|key, records| match unavailable_reason(records, &unavailable) {
                Some(reason) => {
                    refused.insert(key.clone(), RecomputedOrder::refused(Refusal::Unavailable(reason)));
                    false
                }
                None => true,
            });
            match self.fold(&readable).await {
                Ok(mut folded) => {
                    folded.append(&mut refused);
                    return Ok(folded);
                }
                Err(RefoldError::Kafka(error)) => {
                    let Some((topic, partition)) = error.partition() else { return Err(error.into()) };
                    tracing::warn!(%error, "orders with records in {topic}[{partition}] are left as they are: {error}");
                    let partition = (topic.to_owned(), partition);
                    if !matches!(error, RangeError::Gone { .. }) {
                        // Waiting for it took long, and would take as long for every page.
                        self.unavailable.insert(partition.clone(), error.to_string());
                    }
                    unavailable.insert(partition, error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads and folds, on a thread of its own.
    async fn fold(
        &mut self,
        audited: &BTreeMap<OrderKey, Vec<AuditedRecord>>,
    ) -> Result<BTreeMap<OrderKey, RecomputedOrder>, RefoldError> {
        let (audited, orders) = (audited.clone(), self.plan.orders.clone());
        let mut reader = self.reader.take().ok_or(RefoldError::Panicked)?;
        let work = move || {
            let folded = fold::fold(&mut reader, &orders, &audited);
            (reader, folded)
        };
        let (reader, folded) = tokio::task::spawn_blocking(work).await.map_err(|_| RefoldError::Panicked)?;
        self.reader = Some(reader);
        Ok(folded?)
    }

    /// How orders would look if they were written. Those that the database would refuse are refused here.
    async fn expected(
        &mut self,
        orders: &[(OrderKey, RecomputedOrder)],
    ) -> Result<BTreeMap<OrderKey, Rows>, RefoldError> {
        let now = self.plan.clock.now();
        let mut expected = BTreeMap::new();
        let mut parts = vec![orders];
        while let Some(part) = parts.pop() {
            let writes: Vec<Write> = part.iter().map(|(key, folded)| new_write(key, &folded.facts, 1)).collect();
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

    /// Tells of what differs, and writes it if that is asked for. Returns the orders whose events changed meanwhile.
    async fn finish(&mut self, wanted: Vec<PendingOrder>) -> Result<Vec<OrderKey>, RefoldError> {
        let Some(reason) = self.plan.apply.clone() else {
            for order in wanted {
                self.tell(order.diff);
            }
            return Ok(Vec::new());
        };
        let mut moved = Vec::new();
        let mut parts: Vec<&[PendingOrder]> = wanted.chunks(WRITE_ORDERS_MAX).collect();
        let mut told = Vec::new();
        while let Some(part) = parts.pop() {
            match bounded(TRANSACTION_LIMIT, self.write(part, &reason)).await {
                Ok(late) => {
                    self.tally.folded -= late.len() as u64;
                    for order in part.iter().filter(|order| !late.contains(&order.key)) {
                        self.tally.written += 1;
                        told.push(order.diff.clone());
                    }
                    moved.extend(late);
                }
                Err(error) if part.len() > 1 && error.leaves_connection_usable() => {
                    let (a, b) = part.split_at(part.len() / 2);
                    parts.extend([a, b]);
                }
                Err(error) if error.disposition() == Disposition::Isolate => {
                    self.tally.folded -= 1;
                    refuse_for(&mut self.tally, self.found, &part[0].key, &error);
                }
                // Somebody else wrote it, or waits for what this transaction holds: it is folded again.
                Err(error) if error.leaves_connection_usable() => {
                    tracing::debug!(%error, "an order is folded again: {error}");
                    self.tally.folded -= 1;
                    moved.push(part[0].key.clone());
                }
                Err(error) => return Err(error.into()),
            }
        }
        for diff in told {
            self.tell(diff);
        }
        Ok(moved)
    }

    /// One transaction: those orders whose audited events are still the ones that were folded become what was folded.
    async fn write(&mut self, orders: &[PendingOrder], reason: &Reason) -> Result<Vec<OrderKey>, Error> {
        let now = self.plan.clock.now();
        let keys: Vec<OrderKey> = orders.iter().map(|order| order.key.clone()).collect();
        let mut transaction = self.live.begin().await?;
        let versions = store::lock(&mut transaction, &keys).await?;
        let audited = store::audited(&mut transaction, &keys, &self.plan.other_topics).await?;
        let stored = store::rows(&mut transaction, &self.parts, &keys).await?;
        let still = |order: &&PendingOrder| audited.get(&order.key).is_some_and(|audited| *audited == order.audited);
        let (current, late): (Vec<&PendingOrder>, Vec<&PendingOrder>) = orders.iter().partition(still);

        let mut writes = Vec::new();
        let mut messages = Vec::new();
        for order in &current {
            let before = stored.get(&order.key).cloned().unwrap_or_default();
            messages.extend(order.messages.iter().cloned());
            let newly_applied: Vec<&AuditedRecord> = order.newly_applied.iter().collect();
            store::mark_applied(&mut transaction, &newly_applied).await?;
            // An order that only lacks a message is not a new version of itself.
            if before != order.rows {
                let version = versions.get(&order.key).copied().unwrap_or_default() + 1;
                let by = (reason.by.as_str(), reason.why.as_str());
                store::remember(&mut transaction, &order.key, version, &before, by, now).await?;
                writes.push(new_write(&order.key, &order.facts, version));
            }
        }
        let replaced: Vec<OrderKey> = writes.iter().map(|write| write.key.clone()).collect();
        store::remove_parts(&mut transaction, &self.parts, &replaced).await?;
        write(&mut transaction, &writes, now).await?;
        outbox::add(&mut transaction, &messages, now).await?;
        transaction.commit().await?;
        Ok(late.into_iter().map(|order| order.key.clone()).collect())
    }

    fn tell(&mut self, diff: OrderDiff) {
        self.tally.differing += 1;
        self.tally.effects += diff.effects.len() as u64;
        (self.found)(RefoldFinding::Differs(diff));
    }

    fn refuse(&mut self, key: OrderKey, refusal: Refusal) {
        self.tally.refused += 1;
        (self.found)(RefoldFinding::Refused(key, refusal));
    }
}

/// Why one of the records cannot be read, if one cannot.
fn unavailable_reason(records: &[AuditedRecord], unavailable: &BTreeMap<(String, i32), String>) -> Option<String> {
    let needed = records.iter().filter(|record| record.kept.is_none()).map(|record| &record.body_at);
    needed.into_iter().find_map(|body| unavailable.get(&(body.topic.clone(), body.partition)).cloned())
}

/// All of an order, whatever was there.
fn new_write(key: &OrderKey, facts: &Facts, version: i32) -> Write {
    Write { key: key.clone(), before: Facts::default(), after: facts.clone(), version }
}

fn refuse_for(tally: &mut Tally, found: &mut (dyn FnMut(RefoldFinding) + Send), key: &OrderKey, error: &Error) {
    tally.refused += 1;
    found(RefoldFinding::Refused(key.clone(), Refusal::Database(explain(error))));
}
