//! Retries that an operator requests.

use riverlock_ledger::Error;
use riverlock_schemas::{FileId, Mode};
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};

use crate::queue::{clean, view::Filter};

/// The operator and the reason of a requested retry. Stored with the document permanently.
#[derive(Clone, Debug)]
pub struct Request {
    /// The operator.
    pub by: String,
    /// The operator's reason.
    pub reason: String,
}

/// Whether changes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Dry run: all statements are executed and rolled back.
    Dry,
    /// Commit the changes.
    Apply,
}

/// The previous state of a document that is retried.
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

/// Makes up to `limit` documents that match a filter due now, and resets their attempts and age. Stored documents never match,
/// and leased documents are skipped.
///
/// # Errors
/// When PostgreSQL returns an error or is unavailable.
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
