//! Has documents tried again because somebody asked for it.

use riverlock_ledger::Error;
use riverlock_schemas::{FileId, Mode};
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};

use crate::queue::{clean, view::Filter};

/// Who asks for a retry, and why. Kept with the document for good.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who asks.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// Whether something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Only tell what would happen: everything is done, and undone.
    Dry,
    /// Do it.
    Apply,
}

/// A document that is tried again, as it was before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct RetryResult {
    pub file_id: FileId,
    pub order_id: String,
    pub state: String,
    pub attempts: i32,
    pub last_error: Option<String>,
}

struct RetryRow {
    file_id: uuid::Uuid,
    order_id: String,
    state: String,
    attempts: i32,
    last_error: Option<String>,
}

/// Makes up to `limit` of the documents that a filter means due at once, with no attempts and a new age. Stored documents are
/// never among them, and those that a worker has at the moment are passed over.
///
/// # Errors
/// When PostgreSQL refuses.
pub async fn run(
    connection: &mut PgConnection,
    filter: &Filter,
    limit: i64,
    request: &Request,
    run: Run,
) -> Result<Vec<RetryResult>, Error> {
    let mut transaction = connection.begin().await?;
    let rows = sqlx::query_as!(
        RetryRow,
        r#"-- invoices_retry_asked
           WITH chosen AS (
               SELECT file_id, order_id, state, attempts, last_error, created_at FROM invoices
               WHERE state <> 'stored' AND (lease_id IS NULL OR next_attempt_at <= now())
                 AND ($1::uuid IS NULL OR file_id = $1) AND ($2::text IS NULL OR order_id = $2)
                 AND ($3::text IS NULL OR state = $3) AND ($4::text IS NULL OR split_part(last_error, ':', 1) = $4)
                 AND ($5::timestamptz IS NULL OR created_at < $5) AND ($9::timestamptz IS NULL OR created_at >= $9)
                 AND ($10::boolean IS NULL OR live_mode = $10)
               ORDER BY created_at, file_id LIMIT $6 FOR UPDATE SKIP LOCKED
           ), changed AS (
               UPDATE invoices SET state = 'due', ended_at = NULL, attempts = 0, next_attempt_at = now(), retried_at = now(),
                                   lease_id = NULL
               FROM chosen WHERE invoices.file_id = chosen.file_id
           ), noted AS (
               INSERT INTO invoice_retries (file_id, retried_at, retried_by, reason, state, attempts, last_error)
               SELECT file_id, now(), $7, $8, state, attempts, last_error FROM chosen
           )
           SELECT file_id, order_id, state, attempts, last_error FROM chosen ORDER BY created_at, file_id"#,
        filter.file_id.map(|file_id| file_id.as_uuid()),
        filter.order_id.as_deref().map(clean),
        filter.state.as_deref().map(clean),
        filter.reason.as_deref().map(clean),
        filter.queued_before,
        limit,
        clean(&request.by),
        clean(&request.reason),
        filter.queued_since,
        filter.mode.map(Mode::is_live),
    )
    .fetch_all(&mut *transaction)
    .await?;
    match run {
        Run::Dry => transaction.rollback().await?,
        Run::Apply => transaction.commit().await?,
    }
    let retried = rows.into_iter().map(|row| RetryResult {
        file_id: row.file_id.into(),
        order_id: row.order_id,
        state: row.state,
        attempts: row.attempts,
        last_error: row.last_error,
    });
    Ok(retried.collect())
}
