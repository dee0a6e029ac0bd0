//! Read model of documents for the CLI and the API.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use riverlock_ledger::Error;
use riverlock_schemas::{FileId, Mode, hash::Sha256Hash, time::rfc3339};
use serde::Serialize;
use sqlx::PgConnection;

use crate::queue::clean;

/// Maximum number of documents that are shown for one order.
const ROWS_MAX: i64 = 1_000;

/// A document and the state of its download.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Invoice)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct InvoiceView {
    #[schema(value_type = String, format = "uuid")]
    pub file_id: FileId,
    pub order_id: String,
    pub live_mode: bool,
    pub purpose: String,
    pub state: String,
    pub attempts: i32,
    pub queued_at: DateTime<Utc>,
    /// When an operator last requested a retry.
    pub retried_at: Option<DateTime<Utc>>,
    /// Time of the next attempt; only while it is due.
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub last_error: Option<String>,
    pub object_key: Option<String>,
    #[schema(value_type = Option<String>)]
    pub sha256: Option<Sha256Hash>,
    pub size_bytes: Option<i64>,
    /// Hash of the previously stored document, if it was downloaded again.
    #[schema(value_type = Option<String>)]
    pub earlier_sha256: Option<Sha256Hash>,
    pub ended_at: Option<DateTime<Utc>>,
}

impl InvoiceView {
    /// The mode of the document.
    #[must_use]
    pub fn mode(&self) -> Mode {
        Mode::from_live(self.live_mode)
    }

    /// The document's position in a list.
    #[must_use]
    pub fn position(&self) -> ListPosition {
        ListPosition { queued_at: self.queued_at, file_id: self.file_id }
    }
}

impl fmt::Display for InvoiceView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.purpose, self.file_id, self.state)?;
        if let (Some(key), Some(size), Some(hash)) = (&self.object_key, self.size_bytes, self.sha256) {
            write!(f, ", {key}, {size} bytes, SHA-256 {hash}")?;
        }
        if let Some(next) = self.next_attempt_at {
            write!(f, ", {} attempts, next {}", self.attempts, rfc3339(next))?;
        }
        self.last_error.as_ref().map_or(Ok(()), |error| write!(f, ", last error: {error}"))
    }
}

/// A stored document.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct StoredFile {
    pub file_id: FileId,
    pub object_key: String,
    pub sha256: Sha256Hash,
}

/// Selects documents; `None` does not restrict the selection.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// The document with this id.
    pub file_id: Option<FileId>,
    /// Documents of this order.
    pub order_id: Option<String>,
    /// Documents in this state: `due`, `stored` or `discarded`.
    pub state: Option<String>,
    /// Documents whose last attempt failed for this reason, for example `not_found`.
    pub reason: Option<String>,
    /// Documents of this mode.
    pub mode: Option<Mode>,
    /// Documents that were queued at this time or later.
    pub queued_since: Option<DateTime<Utc>>,
    /// Documents that were queued before this time.
    pub queued_before: Option<DateTime<Utc>>,
}

/// A document's position in a list: when it was queued, and its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct ListPosition {
    pub queued_at: DateTime<Utc>,
    pub file_id: FileId,
}

/// A retry that an operator requested.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct RetryView {
    pub retried_at: DateTime<Utc>,
    pub retried_by: String,
    pub reason: String,
    /// The document's state before the retry.
    pub state: String,
    pub attempts: i32,
    pub last_error: Option<String>,
}

struct ViewRow {
    file_id: uuid::Uuid,
    order_id: String,
    live_mode: bool,
    purpose: String,
    state: String,
    attempts: i32,
    created_at: DateTime<Utc>,
    retried_at: Option<DateTime<Utc>>,
    next_attempt_at: DateTime<Utc>,
    last_error: Option<String>,
    object_key: Option<String>,
    sha256: Option<Vec<u8>>,
    size_bytes: Option<i64>,
    earlier_sha256: Option<Vec<u8>>,
    ended_at: Option<DateTime<Utc>>,
}

impl From<ViewRow> for InvoiceView {
    fn from(row: ViewRow) -> Self {
        Self {
            file_id: row.file_id.into(),
            order_id: row.order_id,
            live_mode: row.live_mode,
            purpose: row.purpose,
            next_attempt_at: row.ended_at.is_none().then_some(row.next_attempt_at),
            state: row.state,
            attempts: row.attempts,
            queued_at: row.created_at,
            retried_at: row.retried_at,
            last_error: row.last_error,
            object_key: row.object_key,
            sha256: row.sha256.as_deref().and_then(Sha256Hash::from_slice),
            size_bytes: row.size_bytes,
            earlier_sha256: row.earlier_sha256.as_deref().and_then(Sha256Hash::from_slice),
            ended_at: row.ended_at,
        }
    }
}

/// Lists the documents that match a filter, the oldest first, starting after a position.
///
/// # Errors
/// When PostgreSQL returns an error or is unavailable.
pub async fn list(
    connection: &mut PgConnection,
    filter: &Filter,
    after: Option<ListPosition>,
    limit: i64,
) -> Result<Vec<InvoiceView>, Error> {
    let rows = sqlx::query_as!(
        ViewRow,
        "-- invoices_list
         SELECT file_id, order_id, live_mode, purpose, state, attempts, created_at, retried_at, next_attempt_at, last_error,
                object_key, sha256, size_bytes, earlier_sha256, ended_at
         FROM invoices
         WHERE ($1::uuid IS NULL OR file_id = $1) AND ($2::text IS NULL OR order_id = $2)
           AND ($3::text IS NULL OR state = $3) AND ($4::text IS NULL OR split_part(last_error, ':', 1) = $4)
           AND ($5::timestamptz IS NULL OR created_at < $5) AND ($6::timestamptz IS NULL OR created_at >= $6)
           AND ($7::boolean IS NULL OR live_mode = $7)
           AND ($8::timestamptz IS NULL OR (created_at, file_id) > ($8, $9::uuid))
         ORDER BY created_at, file_id LIMIT $10",
        filter.file_id.map(|file_id| file_id.as_uuid()),
        filter.order_id.as_deref().map(clean),
        filter.state.as_deref().map(clean),
        filter.reason.as_deref().map(clean),
        filter.queued_before,
        filter.queued_since,
        filter.mode.map(Mode::is_live),
        after.map(|after| after.queued_at),
        after.map(|after| after.file_id.as_uuid()),
        limit
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(InvoiceView::from).collect())
}

/// Finds a document.
///
/// # Errors
/// When PostgreSQL returns an error or is unavailable.
pub async fn find(connection: &mut PgConnection, file_id: FileId) -> Result<Option<InvoiceView>, Error> {
    let filter = Filter { file_id: Some(file_id), ..Filter::default() };
    Ok(list(connection, &filter, None, 1).await?.pop())
}

/// The documents of an order, in the order in which they were queued.
///
/// # Errors
/// When PostgreSQL returns an error or is unavailable.
pub async fn of_order(connection: &mut PgConnection, order_id: &str) -> Result<Vec<InvoiceView>, Error> {
    let filter = Filter { order_id: Some(order_id.to_owned()), ..Filter::default() };
    list(connection, &filter, None, ROWS_MAX).await
}

/// The documents that an event announced.
///
/// # Errors
/// When PostgreSQL returns an error or is unavailable.
pub async fn announced_by(connection: &mut PgConnection, order_id: &str, event_id: &str) -> Result<Vec<FileId>, Error> {
    let rows = sqlx::query!(
        "-- invoices_announced_by
         SELECT file_id FROM invoices WHERE order_id = $1 AND event_id = $2 ORDER BY created_at, file_id LIMIT $3",
        order_id,
        event_id,
        ROWS_MAX
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| row.file_id.into()).collect())
}

/// The retries of a document that operators requested, the latest first.
///
/// # Errors
/// When PostgreSQL returns an error or is unavailable.
pub async fn retries(connection: &mut PgConnection, file_id: FileId) -> Result<Vec<RetryView>, Error> {
    let rows = sqlx::query_as!(
        RetryView,
        "-- invoice_retries_of_file
         SELECT retried_at, retried_by, reason, state, attempts, last_error FROM invoice_retries
         WHERE file_id = $1 ORDER BY retry_id DESC LIMIT $2",
        file_id.as_uuid(),
        ROWS_MAX
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Counts documents by state.
///
/// # Errors
/// When PostgreSQL returns an error or is unavailable.
pub async fn count_by_state(connection: &mut PgConnection) -> Result<BTreeMap<String, u64>, Error> {
    let rows = sqlx::query!(
        r#"-- invoices_by_state
           SELECT state, count(*) AS "count!" FROM invoices GROUP BY state"#
    );
    let rows = rows.fetch_all(connection).await?;
    Ok(rows.into_iter().map(|row| (row.state, u64::try_from(row.count).unwrap_or_default())).collect())
}

/// Returns those of these documents that are stored.
///
/// # Errors
/// When PostgreSQL returns an error or is unavailable.
pub async fn stored(connection: &mut PgConnection, files: &[FileId]) -> Result<Vec<StoredFile>, Error> {
    let ids: Vec<_> = files.iter().map(FileId::as_uuid).collect();
    let rows = sqlx::query!(
        r#"-- invoices_stored
           SELECT file_id, object_key AS "object_key!", sha256 AS "sha256!" FROM invoices
           WHERE state = 'stored' AND file_id = ANY($1)"#,
        &ids
    );
    let rows = rows.fetch_all(connection).await?;
    let files = rows.into_iter().filter_map(|row| {
        let sha256 = Sha256Hash::from_slice(&row.sha256)?;
        Some(StoredFile { file_id: row.file_id.into(), object_key: row.object_key, sha256 })
    });
    Ok(files.collect())
}
