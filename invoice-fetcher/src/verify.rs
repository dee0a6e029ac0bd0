//! Verifies stored documents against the archive, and requeues lost and changed ones.
//!
//! Documents are read in pages in the order of their ids, so that memory use is constant and an interrupted run can be resumed.
//! No rows are locked, and the archive is only read.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use riverlock_ledger::{Error, postgres::bounded};
use riverlock_schemas::{FileId, Mode, hash::Sha256Hash};
use serde::Serialize;
use sqlx::PgConnection;
use tokio::time::timeout;

use crate::{
    Archive, ArchiveError,
    queue::{clean, retry::Request},
};

/// Documents that are read with one statement.
const PAGE_DOCUMENTS: i64 = 500;

/// Documents that are read from the archive concurrently.
const READ_AT_ONCE: usize = 8;

/// Time limit for reading one document.
const READ_MAX: Duration = Duration::from_secs(600);

/// Unreadable documents in a row after which the archive counts as unavailable.
const UNREADABLE_MAX: u64 = 20;

/// Which stored documents are verified, and how.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only the document with this id.
    pub file_id: Option<FileId>,
    /// Documents of this order.
    pub order_id: Option<String>,
    /// Documents of this mode.
    pub mode: Option<Mode>,
    /// Documents with ids after this one.
    pub after: Option<FileId>,
    /// Maximum number of documents.
    pub limit: Option<u64>,
    /// Only check existence and size, without reading the documents.
    pub size_only: bool,
}

/// The kind of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The archive does not have it.
    Lost,
    /// The archive has another object under its key.
    Changed,
    /// The document could not be read, so its state is unknown.
    Unreadable,
}

impl Kind {
    /// The name in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Changed => "changed",
            Self::Unreadable => "unreadable",
        }
    }
}

/// A document that is lost, changed or unreadable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyFinding {
    /// The file.
    pub file_id: FileId,
    /// The document's order.
    pub order_id: String,
    /// Whether the document belongs to live data.
    pub live_mode: bool,
    /// Its key in the archive.
    pub object_key: String,
    /// Hash of the stored document.
    pub sha256: Sha256Hash,
    /// The kind of finding.
    pub kind: Kind,
    /// A human-readable description.
    pub detail: String,
    /// Whether it was requeued.
    pub requeued: bool,
}

/// Numbers of documents by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Verified documents.
    pub checked: u64,
    /// Documents that the archive does not have.
    pub lost: u64,
    /// Documents whose object in the archive has changed.
    pub changed: u64,
    /// Documents that could not be read.
    pub unreadable: u64,
    /// Requeued documents.
    pub requeued: u64,
    /// The last verified document: pass it as [`Selection::after`] to resume.
    pub last: Option<FileId>,
}

impl Totals {
    /// Whether every document is unchanged.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.lost + self.changed + self.unreadable == 0
    }

    fn count(&mut self, file_id: FileId, finding: Option<&VerifyFinding>) {
        self.checked += 1;
        self.last = Some(file_id);
        let Some(finding) = finding else { return };
        match finding.kind {
            Kind::Lost => self.lost += 1,
            Kind::Changed => self.changed += 1,
            Kind::Unreadable => self.unreadable += 1,
        }
        self.requeued += u64::from(finding.requeued);
    }
}

/// The documents could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// PostgreSQL returned an error or is unavailable.
    #[error(transparent)]
    Database(#[from] Error),
    /// The archive is unavailable.
    #[error("the archive is unavailable: {0}")]
    Archive(String),
}

struct VerifyRow {
    file_id: uuid::Uuid,
    order_id: String,
    live_mode: bool,
    object_key: String,
    sha256: Vec<u8>,
    size_bytes: i64,
}

/// A document that is stored according to the database.
struct StoredDocument {
    file_id: FileId,
    order_id: String,
    live_mode: bool,
    object_key: String,
    sha256: Sha256Hash,
    size_bytes: u64,
}

impl TryFrom<VerifyRow> for StoredDocument {
    type Error = Error;

    fn try_from(row: VerifyRow) -> Result<Self, Error> {
        let inconsistent = |reason: &str| Error::Inconsistent {
            table: "invoices",
            id: row.file_id.to_string(),
            reason: reason.to_owned(),
        };
        Ok(Self {
            file_id: row.file_id.into(),
            sha256: Sha256Hash::from_slice(&row.sha256).ok_or_else(|| inconsistent("sha256"))?,
            size_bytes: u64::try_from(row.size_bytes).map_err(|_| inconsistent("size_bytes"))?,
            order_id: row.order_id,
            live_mode: row.live_mode,
            object_key: row.object_key,
        })
    }
}

/// Counts the selected documents.
///
/// # Errors
/// When PostgreSQL returns an error, is unavailable or takes longer than `limit`.
pub async fn count(connection: &mut PgConnection, selection: &Selection, limit: Duration) -> Result<u64, Error> {
    let count = sqlx::query_scalar!(
        r#"-- invoices_verify_count
           SELECT count(*) AS "count!" FROM invoices
           WHERE state = 'stored' AND ($1::uuid IS NULL OR file_id > $1) AND ($2::uuid IS NULL OR file_id = $2)
             AND ($3::text IS NULL OR order_id = $3) AND ($4::boolean IS NULL OR live_mode = $4)"#,
        selection.after.map(|file_id| file_id.as_uuid()),
        selection.file_id.map(|file_id| file_id.as_uuid()),
        selection.order_id.as_deref().map(clean),
        selection.mode.map(Mode::is_live),
    );
    let count = bounded(limit, async { Ok::<_, Error>(count.fetch_one(connection).await?) }).await?;
    let count = u64::try_from(count).unwrap_or_default();
    Ok(selection.limit.map_or(count, |limit| count.min(limit)))
}

/// Verifies stored documents and calls `observe` for each, with a finding if there is one. With a `request`, lost and changed
/// documents are requeued. Each statement may take `limit`.
///
/// # Errors
/// When PostgreSQL or the archive is unavailable. Findings that were reported before remain valid.
pub async fn run(
    connection: &mut PgConnection,
    archive: &Archive,
    selection: &Selection,
    request: Option<&Request>,
    limit: Duration,
    observe: &mut (dyn FnMut(Option<&VerifyFinding>) + Send),
) -> Result<Totals, VerifyError> {
    let mut totals = Totals { last: selection.after, ..Totals::default() };
    let mut unreadable_in_a_row = 0;
    loop {
        let left = selection.limit.map_or(u64::MAX, |limit| limit - totals.checked);
        let wanted = PAGE_DOCUMENTS.min(i64::try_from(left).unwrap_or(i64::MAX));
        let rows = bounded(limit, page(connection, selection, totals.last, wanted)).await?;
        let is_last = i64::try_from(rows.len()).unwrap_or(i64::MAX) < PAGE_DOCUMENTS;
        let looks = rows.into_iter().map(|stored| async move {
            let found = compare(archive, &stored, selection.size_only).await;
            (stored, found)
        });
        let mut looks = stream::iter(looks).buffered(READ_AT_ONCE);
        while let Some((stored, found)) = looks.next().await {
            let file_id = stored.file_id;
            let mut finding = found.map(|(kind, detail)| finding(stored, kind, detail));
            if let (Some(found), Some(request)) = (&mut finding, request)
                && found.kind != Kind::Unreadable
            {
                found.requeued = bounded(limit, requeue(connection, found, request)).await?;
            }
            totals.count(file_id, finding.as_ref());
            observe(finding.as_ref());
            match finding {
                Some(VerifyFinding { kind: Kind::Unreadable, detail, .. }) => {
                    unreadable_in_a_row += 1;
                    if unreadable_in_a_row >= UNREADABLE_MAX {
                        return Err(VerifyError::Archive(detail));
                    }
                }
                _ => unreadable_in_a_row = 0,
            }
        }
        if is_last || selection.limit.is_some_and(|limit| totals.checked >= limit) {
            return Ok(totals);
        }
    }
}

async fn page(
    connection: &mut PgConnection,
    selection: &Selection,
    after: Option<FileId>,
    limit: i64,
) -> Result<Vec<StoredDocument>, Error> {
    let rows = sqlx::query_as!(
        VerifyRow,
        r#"-- invoices_verify_page
           SELECT file_id, order_id, live_mode, object_key AS "object_key!", sha256 AS "sha256!",
                  size_bytes AS "size_bytes!"
           FROM invoices
           WHERE state = 'stored' AND ($1::uuid IS NULL OR file_id > $1) AND ($2::uuid IS NULL OR file_id = $2)
             AND ($3::text IS NULL OR order_id = $3) AND ($4::boolean IS NULL OR live_mode = $4)
           ORDER BY file_id LIMIT $5"#,
        after.map(|file_id| file_id.as_uuid()),
        selection.file_id.map(|file_id| file_id.as_uuid()),
        selection.order_id.as_deref().map(clean),
        selection.mode.map(Mode::is_live),
        limit,
    );
    rows.fetch_all(connection).await?.into_iter().map(StoredDocument::try_from).collect()
}

/// Compares a document with the archive. `None` if it is unchanged.
async fn compare(archive: &Archive, stored: &StoredDocument, size_only: bool) -> Option<(Kind, String)> {
    let expected = stored.size_bytes;
    let look = async {
        let object = archive.get(&stored.object_key).await?;
        if object.size_bytes != expected || size_only {
            return Ok((None, object.size_bytes));
        }
        let (sha256, size_bytes) = object.digest().await?;
        Ok::<_, ArchiveError>((Some(sha256), size_bytes))
    };
    match timeout(READ_MAX, look).await {
        Err(_) => Some((Kind::Unreadable, format!("it could not be read within {} s", READ_MAX.as_secs()))),
        Ok(Err(error)) if error.is_not_found() => Some((Kind::Lost, "the archive does not have it".to_owned())),
        Ok(Err(error)) => Some((Kind::Unreadable, error.to_string())),
        Ok(Ok((_, size_bytes))) if size_bytes != expected => {
            Some((Kind::Changed, format!("it has {size_bytes} bytes instead of {expected}")))
        }
        Ok(Ok((Some(sha256), _))) if sha256 != stored.sha256 => {
            Some((Kind::Changed, format!("its SHA-256 is {sha256}, not the stored one")))
        }
        Ok(Ok(_)) => None,
    }
}

fn finding(stored: StoredDocument, kind: Kind, detail: String) -> VerifyFinding {
    let StoredDocument { file_id, order_id, live_mode, object_key, sha256, .. } = stored;
    VerifyFinding { file_id, order_id, live_mode, object_key, sha256, kind, detail, requeued: false }
}

/// Requeues a document unless its row has changed meanwhile.
async fn requeue(connection: &mut PgConnection, finding: &VerifyFinding, request: &Request) -> Result<bool, Error> {
    let error = clean(&format!("{}: {}", finding.kind.as_str(), finding.detail));
    let requeued = sqlx::query!(
        "-- invoices_requeue
         WITH chosen AS (
             SELECT file_id, attempts FROM invoices WHERE file_id = $1 AND state = 'stored' AND sha256 = $2 FOR UPDATE
         ), changed AS (
             UPDATE invoices SET state = 'due', ended_at = NULL, attempts = 0, next_attempt_at = now(), retried_at = now(),
                                 lease_id = NULL, last_error = $3, earlier_sha256 = sha256,
                                 object_key = NULL, sha256 = NULL, size_bytes = NULL
             FROM chosen WHERE invoices.file_id = chosen.file_id
         )
         INSERT INTO invoice_retries (file_id, retried_at, retried_by, reason, state, attempts, last_error)
         SELECT file_id, now(), $4, $5, 'stored', attempts, $3 FROM chosen",
        finding.file_id.as_uuid(),
        finding.sha256.as_bytes().as_slice(),
        error,
        clean(&request.by),
        clean(&request.reason),
    );
    Ok(requeued.execute(connection).await?.rows_affected() == 1)
}
