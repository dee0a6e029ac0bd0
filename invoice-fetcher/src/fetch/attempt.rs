//! One attempt to download a document: look for it in the archive, download, check, store.

use std::{sync::atomic::Ordering, time::Instant};

use metrics::counter;
use tokio::time::timeout_at;

use crate::{
    archive::{
        Archive, ArchiveError,
        pdf::{Checker, DocumentDigest},
        upload::Upload,
    },
    client::{
        download::{Body, Metadata, RequestedDocument},
        media::quote,
    },
    fetch::worker::Fetcher,
    metrics as names,
    problem::Problem,
    queue::{Document, LeasedDocument},
};

impl Fetcher {
    /// Downloads a document and stores it, unless the archive already has it.
    pub(crate) async fn attempt(&self, leased: &LeasedDocument, deadline: Instant) -> Result<Document, Problem> {
        if let Some(document) = self.find_stored(leased, deadline).await? {
            return Ok(document);
        }
        // The account has just been removed: the document waits for another one.
        let account = self.accounts.of(leased.mode).ok_or(Problem::Stopping)?;
        let wanted = RequestedDocument { file_id: leased.file_id, was_throttled: leased.was_throttled };
        let metadata = if self.config.check_metadata {
            self.client.metadata(&account, &wanted, deadline).await?
        } else {
            Metadata::default()
        };
        self.check_purpose(leased, &metadata);
        let bytes_max = self.config.document_bytes_max;
        if metadata.size_bytes.is_some_and(|size| size > bytes_max) {
            return Err(Problem::TooLarge { bytes_max });
        }
        let body = self.client.content(&account, &wanted, bytes_max, deadline).await?;
        account.set_good_file(leased.file_id);
        let mut upload = self.archive.upload(leased.mode, leased.file_id);
        match self.transfer(leased, body, &mut upload, &metadata, deadline).await {
            Ok(document) => Ok(document),
            Err(problem) => {
                upload.abort().await;
                Err(problem)
            }
        }
    }

    /// The document, if the archive has it already: a worker may have died after storing it, or the database was restored from
    /// a backup.
    async fn find_stored(&self, leased: &LeasedDocument, deadline: Instant) -> Result<Option<Document>, Problem> {
        let key = Archive::key(leased.mode, leased.file_id);
        let inspect = async {
            match self.archive.inspect(&key).await {
                // Without the permission to list, S3 does not answer that a key is free. Writes are conditional on a free key,
                // so this lookup is not required for correctness.
                Err(error) if error.is_denied() => {
                    if !self.logged_denied.swap(true, Ordering::Relaxed) {
                        tracing::warn!(
                            "the archive cannot be checked before downloads, because permissions are missing: {error}"
                        );
                    }
                    Ok(None)
                }
                found => found,
            }
        };
        let Some(found) = in_store(inspect, deadline).await? else { return Ok(None) };
        let is_it = found.is_document && leased.earlier.is_none_or(|earlier| earlier == found.sum.sha256);
        if is_it {
            counter!(names::ADOPTED).increment(1);
            tracing::info!(file.id = %leased.file_id, "file {} is already in the archive and is not downloaded", leased.file_id);
        }
        let DocumentDigest { sha256, size_bytes } = found.sum;
        Ok(is_it.then_some(Document { object_key: key, sha256, size_bytes }))
    }

    /// Streams a body into the archive, where only a complete and checked document becomes visible.
    async fn transfer(
        &self,
        leased: &LeasedDocument,
        mut body: Body,
        upload: &mut Upload,
        metadata: &Metadata,
        deadline: Instant,
    ) -> Result<Document, Problem> {
        let mut checker = Checker::new(self.config.document_bytes_max);
        while let Some(bytes) = body.next(deadline).await? {
            checker.push(&bytes)?;
            in_store(upload.write(bytes), deadline).await?;
        }
        let checked = checker
            .finish(&[("Content-Length", body.content_length()), ("the file's metadata", metadata.size_bytes)])?;
        let published = in_store(upload.publish(&checked, leased.earlier), deadline).await?;
        let (file_id, usual_key) = (leased.file_id, Archive::key(leased.mode, leased.file_id));
        if published.key != usual_key || published.sum != checked {
            counter!(names::ANOMALIES, "kind" => names::ANOMALY_CONFLICT).increment(1);
        }
        if published.sum != checked {
            tracing::warn!(
                file.id = %file_id,
                "Digital River's file {file_id} has changed, its SHA-256 is {} now; the stored document stays unchanged", checked.sha256
            );
        } else if published.key != usual_key {
            tracing::warn!(
                file.id = %file_id,
                "another object is stored under {usual_key} and stays unchanged; file {file_id} is stored as {}", published.key
            );
        } else if leased.earlier.is_some_and(|earlier| earlier != checked.sha256) {
            counter!(names::ANOMALIES, "kind" => names::ANOMALY_RERENDERED).increment(1);
            tracing::warn!(file.id = %file_id, "file {file_id} was stored again, with different bytes");
        }
        let DocumentDigest { sha256, size_bytes } = published.sum;
        Ok(Document { object_key: published.key, sha256, size_bytes })
    }

    fn check_purpose(&self, leased: &LeasedDocument, metadata: &Metadata) {
        let Some(purpose) = &metadata.purpose else { return };
        if purpose != leased.purpose.digital_river_name() {
            counter!(names::ANOMALIES, "kind" => names::ANOMALY_PURPOSE).increment(1);
            tracing::warn!(
                file.id = %leased.file_id,
                order.id = leased.order_id.as_str(),
                "file {} was announced as {} but its metadata says {}; it is stored as announced",
                leased.file_id,
                leased.purpose.digital_river_name(),
                quote(purpose),
            );
        }
    }
}

/// Runs an operation of the archive with the deadline.
async fn in_store<T>(
    operation: impl Future<Output = Result<T, ArchiveError>>,
    deadline: Instant,
) -> Result<T, Problem> {
    match timeout_at(deadline.into(), operation).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(ArchiveError::Conflict { stored, received, .. })) => Err(Problem::Conflict { stored, received }),
        Ok(Err(error @ (ArchiveError::Store(_) | ArchiveError::Folder(_)))) => Err(Problem::Store(error.to_string())),
        Err(_) => Err(Problem::Store("took too long".to_owned())),
    }
}
