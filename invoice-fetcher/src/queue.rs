//! The table `invoices`: the queue of downloads, and what came of them.
//!
//! A worker leases a due row by moving its next attempt to the lease's end. One that dies gives the row back without
//! anybody's help; one that comes back too late finds that the lease has passed on, and its result is thrown away. No
//! transaction is open while anything is downloaded or stored.

use chrono::{DateTime, TimeDelta, Utc};
use riverlock_ledger::{Error, outbox};
use riverlock_schemas::{
    FileId, Mode, OrderId,
    cloud_event::{InvoiceStored, Message},
    file_event::{FileEvent, Purpose},
    hash::Sha256Hash,
    time::to_micros,
};
use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection};
use uuid::Uuid;

/// Longest error that is kept with a row, characters.
const ERROR_CHARS_MAX: usize = 500;

/// The queue, over shared connections.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    pool: PgPool,
}

/// A leased row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leased {
    pub(crate) file_id: FileId,
    pub(crate) order_id: OrderId,
    pub(crate) mode: Mode,
    pub(crate) purpose: Purpose,
    /// Attempts, this one included.
    pub(crate) attempts: i32,
    pub(crate) queued_at: DateTime<Utc>,
    /// Whether the attempt before this one was answered 429.
    pub(crate) was_throttled: bool,
    lease_id: Uuid,
}

#[cfg(test)]
impl Leased {
    /// A row that nobody leased, for what needs no database.
    pub(crate) fn pretended(file_id: FileId, mode: Mode) -> Self {
        Self {
            file_id,
            order_id: OrderId::parse("order").unwrap(),
            mode,
            purpose: Purpose::Invoice,
            attempts: 1,
            queued_at: DateTime::UNIX_EPOCH,
            was_throttled: false,
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

/// How an attempt ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The document is stored.
    Stored(Document),
    /// It is tried again.
    RetryAt {
        /// When.
        at: DateTime<Utc>,
        /// What its count of attempts becomes.
        attempts: i32,
        /// What went wrong.
        error: String,
    },
    /// It is given up.
    Discarded {
        /// What went wrong.
        error: String,
    },
}

/// Whether the end of an attempt was written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// It was.
    Yes,
    /// The lease had passed on, or the row has ended; nothing was changed.
    LeaseLost,
}

/// How long ago a document was queued, as in labels; and the ages between them, seconds.
pub(crate) const AGES: [&str; 5] = ["over_3d", "under_3d", "under_1d", "under_1h", "under_1m"];
const AGE_BOUNDS: [i64; 4] = [3 * 24 * 3600, 24 * 3600, 3600, 60];

/// The queue's depth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Documents that are due now or later, or leased, by [`AGES`].
    pub(crate) due: [i64; AGES.len()],
    /// Since when the most overdue one is.
    pub(crate) since: Option<DateTime<Utc>>,
}

/// Documents that are not waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) stored: i64,
    pub(crate) discarded: i64,
}

/// Queues announced documents, and returns how many were not there yet.
///
/// # Errors
/// When PostgreSQL refuses.
pub(crate) async fn add(connection: &mut PgConnection, events: &[FileEvent], now: DateTime<Utc>) -> Result<u64, Error> {
    let added = sqlx::query!(
        "-- invoices_add
         INSERT INTO invoices (file_id, order_id, live_mode, purpose, event_id, announced_at, next_attempt_at, created_at)
         SELECT *, $7, $7 FROM unnest($1::uuid[], $2::text[], $3::boolean[], $4::text[], $5::text[], $6::timestamptz[])
         ON CONFLICT (file_id) DO NOTHING",
        &events.iter().map(|event| event.file_id.as_uuid()).collect::<Vec<_>>(),
        &events.iter().map(|event| event.order_id.as_str()).collect::<Vec<_>>() as _,
        &events.iter().map(|event| event.mode.is_live()).collect::<Vec<_>>(),
        &events.iter().map(|event| event.purpose.as_str()).collect::<Vec<_>>() as _,
        &events.iter().map(|event| event.event_id.as_str()).collect::<Vec<_>>() as _,
        &events.iter().map(|event| event.created_time).collect::<Vec<_>>() as _,
        now,
    )
    .execute(connection)
    .await?;
    Ok(added.rows_affected())
}

/// Files that are queued with another order, mode or purpose than these events say.
///
/// # Errors
/// When PostgreSQL refuses.
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
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Leases up to `limit` due documents of a mode until `lease_until`, the most overdue first. Counts the attempts.
    ///
    /// # Errors
    /// When PostgreSQL refuses.
    pub(crate) async fn lease(
        &self,
        mode: Mode,
        limit: usize,
        now: DateTime<Utc>,
        lease_until: DateTime<Utc>,
    ) -> Result<Vec<Leased>, Error> {
        let lease_id = Uuid::new_v4();
        let rows = sqlx::query!(
            "-- invoices_lease
             UPDATE invoices AS invoice
             SET attempts = invoice.attempts + 1, lease_id = $1, next_attempt_at = $2
             FROM (
                 SELECT file_id FROM invoices
                 WHERE state = 'due' AND next_attempt_at <= $3 AND live_mode = $4
                 ORDER BY next_attempt_at LIMIT $5 FOR UPDATE SKIP LOCKED
             ) AS due
             WHERE invoice.file_id = due.file_id
             RETURNING invoice.file_id, invoice.order_id, invoice.purpose, invoice.attempts,
                       coalesce(invoice.retried_at, invoice.created_at) AS \"queued_at!\",
                       coalesce(invoice.last_error LIKE 'throttled%', false) AS \"was_throttled!\"",
            lease_id,
            lease_until,
            now,
            mode.is_live(),
            i64::try_from(limit).unwrap_or(i64::MAX),
        )
        .fetch_all(&self.pool)
        .await?;
        let leased = rows.into_iter().map(|row| {
            let file_id = FileId::from(row.file_id);
            let inconsistent =
                |reason: String| Error::Inconsistent { table: "invoices", id: file_id.to_string(), reason };
            Ok(Leased {
                file_id,
                order_id: OrderId::parse(row.order_id).map_err(|error| inconsistent(format!("order_id {error}")))?,
                mode,
                purpose: purpose(&row.purpose).ok_or_else(|| inconsistent(format!("purpose {}", row.purpose)))?,
                attempts: row.attempts,
                queued_at: row.queued_at,
                was_throttled: row.was_throttled,
                lease_id,
            })
        });
        leased.collect()
    }

    /// Writes down how an attempt ended, if its lease is still this one.
    ///
    /// # Errors
    /// When PostgreSQL refuses. Nothing is written then, or everything and the answer was lost.
    pub(crate) async fn end(&self, leased: &Leased, end: &End, now: DateTime<Utc>) -> Result<Written, Error> {
        let rows = match end {
            End::Stored(document) => self.stored(leased, document, now).await?,
            End::RetryAt { at, attempts, error } => {
                let error = clean(error);
                sqlx::query!(
                    "-- invoices_retry
                     UPDATE invoices SET next_attempt_at = $3, attempts = $4, last_error = $5, lease_id = NULL
                     WHERE file_id = $1 AND lease_id = $2 AND state = 'due'",
                    leased.file_id.as_uuid(),
                    leased.lease_id,
                    to_micros(*at),
                    attempts,
                    error,
                )
                .execute(&self.pool)
                .await?
                .rows_affected()
            }
            End::Discarded { error } => {
                let error = clean(error);
                sqlx::query!(
                    "-- invoices_discard
                     UPDATE invoices SET state = 'discarded', ended_at = $3, last_error = $4, lease_id = NULL
                     WHERE file_id = $1 AND lease_id = $2 AND state = 'due'",
                    leased.file_id.as_uuid(),
                    leased.lease_id,
                    now,
                    error,
                )
                .execute(&self.pool)
                .await?
                .rows_affected()
            }
        };
        Ok(if rows == 0 { Written::LeaseLost } else { Written::Yes })
    }

    /// Marks the row, and tells other systems, in one transaction.
    async fn stored(&self, leased: &Leased, document: &Document, now: DateTime<Utc>) -> Result<u64, Error> {
        // Never cancelled: a cancelled `begin` would leave a transaction open in the pool.
        let mut transaction = self.pool.begin().await?;
        let rows = sqlx::query!(
            "-- invoices_mark_stored
             UPDATE invoices SET state = 'stored', object_key = $3, sha256 = $4, size_bytes = $5, ended_at = $6,
                                 last_error = NULL, lease_id = NULL
             WHERE file_id = $1 AND lease_id = $2 AND state = 'due'",
            leased.file_id.as_uuid(),
            leased.lease_id,
            document.object_key,
            document.sha256.as_bytes().as_slice(),
            i64::try_from(document.size_bytes).unwrap_or(i64::MAX),
            now,
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if rows == 0 {
            transaction.rollback().await?;
            return Ok(0);
        }
        let message = Message::InvoiceStored(InvoiceStored {
            order_id: leased.order_id.clone(),
            mode: leased.mode,
            file_id: leased.file_id,
            purpose: leased.purpose,
            object_key: document.object_key.clone(),
            sha256: document.sha256,
            size_bytes: document.size_bytes,
        });
        outbox::add(&mut transaction, &[message], now).await?;
        transaction.commit().await?;
        Ok(rows)
    }

    /// Makes documents due that wait because the key may not fetch them.
    ///
    /// # Errors
    /// When PostgreSQL refuses.
    pub(crate) async fn wake_forbidden(&self, mode: Mode, now: DateTime<Utc>) -> Result<u64, Error> {
        let woken = sqlx::query!(
            "-- invoices_wake_forbidden
             UPDATE invoices SET next_attempt_at = $2
             WHERE state = 'due' AND live_mode = $1 AND lease_id IS NULL AND next_attempt_at > $2
               AND split_part(last_error, ':', 1) IN ('forbidden', 'unauthorized')",
            mode.is_live(),
            now,
        );
        Ok(woken.execute(&self.pool).await?.rows_affected())
    }

    /// A connection for questions.
    ///
    /// # Errors
    /// When PostgreSQL does not take one.
    pub(crate) async fn connection(&self) -> Result<PoolConnection<Postgres>, Error> {
        Ok(self.pool.acquire().await?)
    }

    /// How much waits, and how long it has.
    ///
    /// # Errors
    /// When PostgreSQL refuses.
    pub(crate) async fn waiting(&self, now: DateTime<Utc>) -> Result<Waiting, Error> {
        let rows = sqlx::query!(
            r#"-- invoices_waiting
               SELECT width_bucket(coalesce(retried_at, created_at), $1::timestamptz[]) AS "age!", count(*) AS "due!",
                      min(next_attempt_at) AS since
               FROM invoices WHERE state = 'due' GROUP BY 1"#,
            &AGE_BOUNDS.map(|seconds| now - TimeDelta::seconds(seconds)),
        );
        let mut waiting = Waiting::default();
        for row in rows.fetch_all(&self.pool).await? {
            if let Some(due) = usize::try_from(row.age).ok().and_then(|age| waiting.due.get_mut(age)) {
                *due = row.due;
            }
            waiting.since = [waiting.since, row.since].into_iter().flatten().min();
        }
        Ok(waiting)
    }

    /// How much has ended. Reads the whole table: ask rarely.
    ///
    /// # Errors
    /// When PostgreSQL refuses.
    pub(crate) async fn ended(&self) -> Result<Ended, Error> {
        let ended = sqlx::query_as!(
            Ended,
            r#"-- invoices_ended
               SELECT count(*) FILTER (WHERE state = 'stored') AS "stored!",
                      count(*) FILTER (WHERE state = 'discarded') AS "discarded!"
               FROM invoices"#
        );
        Ok(ended.fetch_one(&self.pool).await?)
    }
}

fn purpose(text: &str) -> Option<Purpose> {
    [Purpose::Invoice, Purpose::CreditMemo].into_iter().find(|purpose| purpose.as_str() == text)
}

/// A text that the database takes.
pub(crate) fn clean(error: &str) -> String {
    let clean = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    error.chars().take(ERROR_CHARS_MAX).map(clean).collect()
}
