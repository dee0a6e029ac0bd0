//! The table `invoices`: the queue of downloads, and their results.
//!
//! A worker leases a due row by moving its next attempt to the end of the lease. If the worker dies, the row becomes due when
//! the lease ends; if it finishes after that, it finds that it has lost the lease and its result is discarded. No transaction
//! is open during a download or while a document is stored.
//!
//! All times are PostgreSQL's, because processes on machines with different clocks share the queue.

pub(crate) mod database;
pub mod ignored;
pub mod missing;
pub mod projection;
pub mod republish;
pub mod retry;
pub mod view;

use std::time::Duration;

use chrono::{DateTime, Utc};
use riverlock_ledger::{Error, metrics::latency, outbox};
use riverlock_schemas::{
    FileId, Mode, OrderId,
    cloud_event::{InvoiceStored, Message},
    events::file_event::{FileEvent, Purpose},
    hash::Sha256Hash,
};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::queue::database::Database;

/// Maximum length of a stored error message, characters.
const ERROR_CHARS_MAX: usize = 500;

/// The queue.
#[derive(Clone)]
pub(crate) struct Queue {
    database: Database,
}

/// Maximum numbers of documents to lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseRoom {
    /// In total.
    pub(crate) documents: usize,
    /// Of these, documents that were attempted before.
    pub(crate) repeated: usize,
}

/// A leased row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeasedDocument {
    pub(crate) file_id: FileId,
    pub(crate) order_id: OrderId,
    pub(crate) mode: Mode,
    pub(crate) purpose: Purpose,
    /// Attempts, including this one.
    pub(crate) attempts: i32,
    /// Time since it was queued, or since an operator requested a retry, when it was leased.
    pub(crate) age: Duration,
    /// Whether the previous attempt was answered with 429.
    pub(crate) was_throttled: bool,
    /// Hash of the previously stored document, if it is downloaded again.
    pub(crate) earlier: Option<Sha256Hash>,
    lease_id: Uuid,
}

impl LeasedDocument {
    /// Whether it was attempted before.
    pub(crate) fn is_repeated(&self) -> bool {
        self.attempts > 1
    }
}

#[cfg(test)]
impl LeasedDocument {
    /// A document that was not leased, for tests without a database.
    pub(crate) fn for_test(file_id: FileId, mode: Mode) -> Self {
        Self {
            file_id,
            order_id: OrderId::parse("order").unwrap(),
            mode,
            purpose: Purpose::Invoice,
            attempts: 1,
            age: Duration::ZERO,
            was_throttled: false,
            earlier: None,
            lease_id: Uuid::nil(),
        }
    }
}

/// A stored document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) object_key: String,
    pub(crate) sha256: Sha256Hash,
    pub(crate) size_bytes: u64,
}

/// The result of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The document is stored.
    Stored(Document),
    /// It is retried.
    RetryAfter {
        /// The wait before the next attempt.
        wait: Duration,
        /// The new number of attempts.
        attempts: i32,
        /// The problem.
        error: String,
    },
    /// It is discarded.
    Discarded {
        /// The problem.
        error: String,
    },
}

/// Whether the result of an attempt was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteResult {
    /// It was stored.
    Yes,
    /// The lease was lost, or the document is not due any more; nothing was changed.
    LeaseLost,
}

/// Metric labels for the time since a document was queued, and the bounds between them in seconds.
pub(crate) const AGES: [&str; 5] = ["under_1m", "under_1h", "under_1d", "under_3d", "over_3d"];
const AGE_BOUNDS: [f64; 4] = [60.0, 3600.0, 24.0 * 3600.0, 3.0 * 24.0 * 3600.0];

/// Numbers of due documents of a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenCounts {
    pub(crate) mode: Mode,
    /// Documents in the state `due` (due now or later, or leased), by [`AGES`].
    pub(crate) due: [i64; AGES.len()],
    /// How long the most overdue document has been due; zero if none is.
    pub(crate) overdue: Duration,
}

impl OpenCounts {
    fn none(mode: Mode) -> Self {
        Self { mode, due: [0; AGES.len()], overdue: Duration::ZERO }
    }

    /// The number of documents of all ages.
    pub(crate) fn documents(&self) -> i64 {
        self.due.iter().sum()
    }
}

/// Numbers of documents that are not due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClosedCounts {
    pub(crate) stored: i64,
    pub(crate) discarded: i64,
}

/// Queues announced documents and returns the number of new ones.
///
/// # Errors
/// When PostgreSQL returns an error or is unavailable.
pub(crate) async fn add(connection: &mut PgConnection, events: &[FileEvent]) -> Result<u64, Error> {
    let added = sqlx::query!(
        "-- invoices_add
         INSERT INTO invoices (file_id, order_id, live_mode, purpose, event_id, announced_at, next_attempt_at, created_at)
         SELECT *, now(), now()
         FROM unnest($1::uuid[], $2::text[], $3::boolean[], $4::text[], $5::text[], $6::timestamptz[])
         ON CONFLICT (file_id) DO NOTHING",
        &events.iter().map(|event| event.file_id.as_uuid()).collect::<Vec<_>>(),
        &events.iter().map(|event| event.order_id.as_str()).collect::<Vec<_>>() as _,
        &events.iter().map(|event| event.mode.is_live()).collect::<Vec<_>>(),
        &events.iter().map(|event| event.purpose.as_str()).collect::<Vec<_>>() as _,
        &events.iter().map(|event| event.event_id.as_str()).collect::<Vec<_>>() as _,
        &events.iter().map(|event| event.created_time).collect::<Vec<_>>() as _,
    )
    .execute(connection)
    .await?;
    Ok(added.rows_affected())
}

/// Queued files whose order, mode or purpose differs from these events.
///
/// # Errors
/// When PostgreSQL returns an error or is unavailable.
pub(crate) async fn announced_otherwise(
    connection: &mut PgConnection,
    events: &[FileEvent],
) -> Result<Vec<FileId>, Error> {
    let ids = sqlx::query_scalar!(
        "-- invoices_announced_otherwise
         SELECT queued.file_id FROM invoices AS queued
         JOIN unnest($1::uuid[], $2::text[], $3::boolean[], $4::text[]) AS announced (file_id, order_id, live_mode, purpose)
             USING (file_id)
         WHERE (queued.order_id, queued.live_mode, queued.purpose)
             IS DISTINCT FROM (announced.order_id, announced.live_mode, announced.purpose)",
        &events.iter().map(|event| event.file_id.as_uuid()).collect::<Vec<_>>(),
        &events.iter().map(|event| event.order_id.as_str()).collect::<Vec<_>>() as _,
        &events.iter().map(|event| event.mode.is_live()).collect::<Vec<_>>(),
        &events.iter().map(|event| event.purpose.as_str()).collect::<Vec<_>>() as _,
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(FileId::from).collect())
}

impl Queue {
    pub(crate) fn new(database: Database) -> Self {
        Self { database }
    }

    /// The pool of sessions.
    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// Leases due documents of a mode for `lease`, the most overdue first, and increments their attempts.
    ///
    /// # Errors
    /// When PostgreSQL returns an error or is unavailable.
    pub(crate) async fn lease(
        &self,
        mode: Mode,
        room: LeaseRoom,
        lease: Duration,
    ) -> Result<Vec<LeasedDocument>, Error> {
        let lease_id = Uuid::new_v4();
        let limit = |documents: usize| i64::try_from(documents).unwrap_or(i64::MAX);
        self.database
            .run(async |connection| {
                let rows = sqlx::query_as!(
                    LeaseRow,
                    r#"-- invoices_lease
                       WITH fresh AS (
                           SELECT file_id, next_attempt_at FROM invoices
                           WHERE state = 'due' AND live_mode = $3 AND least(attempts, 1) = 0 AND next_attempt_at <= now()
                           ORDER BY next_attempt_at LIMIT $4 FOR UPDATE SKIP LOCKED
                       ), repeated AS (
                           SELECT file_id, next_attempt_at FROM invoices
                           WHERE state = 'due' AND live_mode = $3 AND least(attempts, 1) = 1 AND next_attempt_at <= now()
                           ORDER BY next_attempt_at LIMIT $5 FOR UPDATE SKIP LOCKED
                       ), due AS (
                           SELECT file_id FROM (TABLE fresh UNION ALL TABLE repeated) AS both_kinds
                           ORDER BY next_attempt_at LIMIT $4
                       )
                       UPDATE invoices AS invoice
                       SET attempts = invoice.attempts + 1, lease_id = $1,
                           next_attempt_at = now() + make_interval(secs => $2)
                       FROM due WHERE invoice.file_id = due.file_id
                       RETURNING invoice.file_id, invoice.order_id, invoice.purpose, invoice.attempts,
                           invoice.earlier_sha256,
                           extract(epoch FROM now() - coalesce(invoice.retried_at, invoice.created_at))::float8 AS "age!",
                           coalesce(invoice.last_error LIKE 'throttled%', false) AS "was_throttled!""#,
                    lease_id,
                    lease.as_secs_f64(),
                    mode.is_live(),
                    limit(room.documents),
                    limit(room.repeated.min(room.documents)),
                );
                rows.fetch_all(connection).await?.into_iter().map(|row| row.leased(mode, lease_id)).collect()
            })
            .await
    }

    /// Stores the result of an attempt, unless its lease was lost. `now` is the time of the message.
    ///
    /// # Errors
    /// When PostgreSQL returns an error or is unavailable. The result may have been stored if the response was lost.
    pub(crate) async fn end(
        &self,
        leased: &LeasedDocument,
        end: &End,
        now: DateTime<Utc>,
    ) -> Result<WriteResult, Error> {
        let rows = self
            .database
            .run(async |connection| match end {
                End::Stored(document) => stored(connection, leased, document, now).await,
                End::RetryAfter { wait, attempts, error } => retry(connection, leased, *wait, *attempts, error).await,
                End::Discarded { error } => discard(connection, leased, error).await,
            })
            .await?;
        Ok(if rows == 0 { WriteResult::LeaseLost } else { WriteResult::Yes })
    }

    /// Makes documents due that wait because the key was rejected for them.
    ///
    /// # Errors
    /// When PostgreSQL returns an error or is unavailable.
    pub(crate) async fn wake_rejected(&self, mode: Mode) -> Result<u64, Error> {
        self.database
            .run(async |connection| {
                let woken = sqlx::query!(
                    "-- invoices_wake_refused
                     UPDATE invoices SET next_attempt_at = now()
                     WHERE state = 'due' AND live_mode = $1 AND lease_id IS NULL AND next_attempt_at > now()
                       AND split_part(last_error, ':', 1) IN ('forbidden', 'unauthorized')",
                    mode.is_live(),
                );
                Ok(woken.execute(connection).await?.rows_affected())
            })
            .await
    }

    /// A document of a mode that was downloaded before, if there is one.
    ///
    /// # Errors
    /// When PostgreSQL returns an error or is unavailable.
    pub(crate) async fn good_file(&self, mode: Mode) -> Result<Option<FileId>, Error> {
        self.database
            .run(async |connection| {
                let newest = sqlx::query_scalar!(
                    "-- invoices_newest_stored
                     SELECT file_id FROM invoices WHERE state = 'stored' AND live_mode = $1
                     ORDER BY created_at DESC, file_id DESC LIMIT 1",
                    mode.is_live(),
                );
                Ok(newest.fetch_optional(connection).await?.map(FileId::from))
            })
            .await
    }

    /// Counts due documents by mode and age.
    ///
    /// # Errors
    /// When PostgreSQL returns an error or is unavailable.
    pub(crate) async fn waiting(&self) -> Result<[OpenCounts; 2], Error> {
        self.database
            .run(async |connection| {
                let rows = sqlx::query!(
                    r#"-- invoices_waiting
                       SELECT live_mode, count(*) AS "due!",
                              width_bucket(extract(epoch FROM now() - coalesce(retried_at, created_at))::float8, $1::float8[])
                                  AS "age!",
                              greatest(extract(epoch FROM now() - min(next_attempt_at)), 0)::float8 AS "overdue!"
                       FROM invoices WHERE state = 'due' GROUP BY live_mode, 3"#,
                    &AGE_BOUNDS,
                );
                let mut waiting = [Mode::Live, Mode::Test].map(OpenCounts::none);
                for row in rows.fetch_all(connection).await? {
                    let Some(of) = waiting.iter_mut().find(|of| of.mode.is_live() == row.live_mode) else { continue };
                    if let Some(due) = usize::try_from(row.age).ok().and_then(|age| of.due.get_mut(age)) {
                        *due = row.due;
                    }
                    of.overdue = of.overdue.max(seconds(row.overdue));
                }
                Ok(waiting)
            })
            .await
    }

    /// Counts stored and discarded documents. Reads the whole table, so it must be called rarely.
    ///
    /// # Errors
    /// When PostgreSQL returns an error or is unavailable.
    pub(crate) async fn ended(&self) -> Result<ClosedCounts, Error> {
        self.database
            .run(async |connection| {
                let ended = sqlx::query_as!(
                    ClosedCounts,
                    r#"-- invoices_ended
                       SELECT count(*) FILTER (WHERE state = 'stored') AS "stored!",
                              count(*) FILTER (WHERE state = 'discarded') AS "discarded!"
                       FROM invoices"#
                );
                Ok(ended.fetch_one(connection).await?)
            })
            .await
    }
}

struct LeaseRow {
    file_id: Uuid,
    order_id: String,
    purpose: String,
    attempts: i32,
    earlier_sha256: Option<Vec<u8>>,
    age: f64,
    was_throttled: bool,
}

impl LeaseRow {
    fn leased(self, mode: Mode, lease_id: Uuid) -> Result<LeasedDocument, Error> {
        let file_id = FileId::from(self.file_id);
        let inconsistent = |reason: String| Error::Inconsistent { table: "invoices", id: file_id.to_string(), reason };
        Ok(LeasedDocument {
            file_id,
            order_id: OrderId::parse(self.order_id).map_err(|error| inconsistent(format!("order_id {error}")))?,
            mode,
            purpose: Purpose::parse(&self.purpose).ok_or_else(|| inconsistent(format!("purpose {}", self.purpose)))?,
            attempts: self.attempts,
            age: seconds(self.age),
            was_throttled: self.was_throttled,
            earlier: self.earlier_sha256.as_deref().and_then(Sha256Hash::from_slice),
            lease_id,
        })
    }
}

/// Marks the document as stored and writes the message to the outbox, in one transaction.
async fn stored(
    connection: &mut PgConnection,
    leased: &LeasedDocument,
    document: &Document,
    now: DateTime<Utc>,
) -> Result<u64, Error> {
    let mut transaction = connection.begin().await?;
    let row = sqlx::query!(
        r#"-- invoices_mark_stored
           UPDATE invoices i SET state = 'stored', object_key = $3, sha256 = $4, size_bytes = $5, ended_at = now(),
                                 last_error = NULL, lease_id = NULL, earlier_sha256 = nullif(earlier_sha256, $4),
                                 message_at = coalesce(message_at, $6)
           WHERE file_id = $1 AND lease_id = $2 AND state = 'due'
           -- The subquery reads the row as it was.
           RETURNING (SELECT message_at IS NULL FROM invoices b WHERE b.file_id = i.file_id) AS "is_first!",
                     announced_at, created_at"#,
        leased.file_id.as_uuid(),
        leased.lease_id,
        document.object_key,
        document.sha256.as_bytes().as_slice(),
        i64::try_from(document.size_bytes).unwrap_or(i64::MAX),
        now,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(row) = row else {
        transaction.rollback().await?;
        return Ok(0);
    };
    // A document that is fetched again was announced when it was stored first.
    if row.is_first {
        outbox::add(&mut transaction, &[message(leased, document)], now).await?;
    }
    transaction.commit().await?;
    if row.is_first {
        latency::invoice_stored(row.announced_at, row.created_at);
    }
    Ok(1)
}

fn message(leased: &LeasedDocument, document: &Document) -> Message {
    Message::InvoiceStored(InvoiceStored {
        order_id: leased.order_id.clone(),
        mode: leased.mode,
        file_id: leased.file_id,
        purpose: leased.purpose,
        object_key: document.object_key.clone(),
        sha256: document.sha256,
        size_bytes: document.size_bytes,
    })
}

async fn retry(
    connection: &mut PgConnection,
    leased: &LeasedDocument,
    wait: Duration,
    attempts: i32,
    error: &str,
) -> Result<u64, Error> {
    let retried = sqlx::query!(
        "-- invoices_retry
         UPDATE invoices SET next_attempt_at = now() + make_interval(secs => $3), attempts = $4, last_error = $5,
                             lease_id = NULL
         WHERE file_id = $1 AND lease_id = $2 AND state = 'due'",
        leased.file_id.as_uuid(),
        leased.lease_id,
        wait.as_secs_f64(),
        attempts,
        clean(error),
    );
    Ok(retried.execute(connection).await?.rows_affected())
}

async fn discard(connection: &mut PgConnection, leased: &LeasedDocument, error: &str) -> Result<u64, Error> {
    let discarded = sqlx::query!(
        "-- invoices_discard
         UPDATE invoices SET state = 'discarded', ended_at = now(), last_error = $3, lease_id = NULL
         WHERE file_id = $1 AND lease_id = $2 AND state = 'due'",
        leased.file_id.as_uuid(),
        leased.lease_id,
        clean(error),
    );
    Ok(discarded.execute(connection).await?.rows_affected())
}

/// Converts PostgreSQL's seconds to a duration; zero if negative because a clock was set back.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// Sanitizes a text so that the database accepts it.
pub(crate) fn clean(error: &str) -> String {
    let clean = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    error.chars().take(ERROR_CHARS_MAX).map(clean).collect()
}
