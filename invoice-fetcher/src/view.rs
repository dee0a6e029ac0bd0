//! Documents for people who look.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use riverlock_ledger::Error;
use riverlock_schemas::{FileId, hash::Sha256Hash};
use serde::Serialize;
use sqlx::PgConnection;

/// Documents that are shown of one order.
const ROWS_MAX: i64 = 1_000;

/// A document, and where its download stands.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct InvoiceView {
    pub file_id: FileId,
    pub live_mode: bool,
    pub purpose: String,
    pub state: String,
    pub attempts: i32,
    /// When it is tried next; only while it is due.
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub last_error: Option<String>,
    pub object_key: Option<String>,
    pub sha256: Option<Sha256Hash>,
    pub size_bytes: Option<i64>,
    pub ended_at: Option<DateTime<Utc>>,
}

impl fmt::Display for InvoiceView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.purpose, self.file_id, self.state)?;
        if let (Some(key), Some(size), Some(hash)) = (&self.object_key, self.size_bytes, self.sha256) {
            write!(f, ", {key}, {size} bytes, SHA-256 {hash}")?;
        }
        if let Some(next) = self.next_attempt_at {
            write!(f, ", {} attempts, next {next}", self.attempts)?;
        }
        self.last_error.as_ref().map_or(Ok(()), |error| write!(f, ", last error: {error}"))
    }
}

/// A document that is stored.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct StoredFile {
    pub file_id: FileId,
    pub object_key: String,
    pub sha256: Sha256Hash,
}

/// The documents of an order.
///
/// # Errors
/// When PostgreSQL refuses.
pub async fn of_order(connection: &mut PgConnection, order_id: &str) -> Result<Vec<InvoiceView>, Error> {
    let rows = sqlx::query!(
        "-- invoices_of_order
         SELECT file_id, live_mode, purpose, state, attempts, next_attempt_at, last_error, object_key, sha256, size_bytes,
                ended_at
         FROM invoices WHERE order_id = $1 ORDER BY created_at, file_id LIMIT $2",
        order_id,
        ROWS_MAX
    );
    let rows = rows.fetch_all(connection).await?;
    let views = rows.into_iter().map(|row| InvoiceView {
        file_id: row.file_id.into(),
        live_mode: row.live_mode,
        purpose: row.purpose,
        next_attempt_at: row.ended_at.is_none().then_some(row.next_attempt_at),
        state: row.state,
        attempts: row.attempts,
        last_error: row.last_error,
        object_key: row.object_key,
        sha256: row.sha256.as_deref().and_then(Sha256Hash::from_slice),
        size_bytes: row.size_bytes,
        ended_at: row.ended_at,
    });
    Ok(views.collect())
}

/// How many documents are in which state.
///
/// # Errors
/// When PostgreSQL refuses.
pub async fn count_by_state(connection: &mut PgConnection) -> Result<BTreeMap<String, u64>, Error> {
    let rows = sqlx::query!(
        r#"-- invoices_by_state
           SELECT state, count(*) AS "count!" FROM invoices GROUP BY state"#
    );
    let rows = rows.fetch_all(connection).await?;
    Ok(rows.into_iter().map(|row| (row.state, u64::try_from(row.count).unwrap_or_default())).collect())
}

/// Those of these documents that are stored.
///
/// # Errors
/// When PostgreSQL refuses.
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
