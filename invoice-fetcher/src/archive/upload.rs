//! Upload of one document into the archive.

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload, path::Path};
use riverlock_schemas::{FileId, Mode, hash::Sha256Hash};
use uuid::Uuid;

use crate::archive::{Archive, ArchiveError, Source, pdf::DocumentDigest};

/// Receives the bytes of a document, holds at most one part of them in memory, and publishes the document at the end.
pub(crate) struct Upload {
    archive: Archive,
    mode: Mode,
    file_id: FileId,
    part: Vec<Bytes>,
    part_bytes: usize,
    staged: Option<StagedUpload>,
}

struct StagedUpload {
    path: Path,
    upload: Box<dyn MultipartUpload>,
}

/// A document in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArchivedDocument {
    pub(crate) key: String,
    /// Hash and size of the stored document, which is not the published one if a document was stored already.
    pub(crate) sum: DocumentDigest,
}

impl Archive {
    /// Starts the upload of a document. Nothing is visible before [`Upload::publish`].
    pub(crate) fn upload(&self, mode: Mode, file_id: FileId) -> Upload {
        Upload::new(self.clone(), mode, file_id)
    }
}

impl Upload {
    pub(crate) fn new(archive: Archive, mode: Mode, file_id: FileId) -> Self {
        Self { archive, mode, file_id, part: Vec::new(), part_bytes: 0, staged: None }
    }

    /// Adds the next bytes.
    ///
    /// # Errors
    /// When the store rejects a part.
    pub(crate) async fn write(&mut self, mut bytes: Bytes) -> Result<(), ArchiveError> {
        while !bytes.is_empty() {
            // All parts but the last have the same size, as some stores require.
            if self.part_bytes == self.archive.part_bytes() {
                self.send_part().await?;
            }
            let room = self.archive.part_bytes() - self.part_bytes;
            let bytes = bytes.split_to(room.min(bytes.len()));
            self.part_bytes += bytes.len();
            self.part.push(bytes);
        }
        Ok(())
    }

    /// Makes the document visible. A document that is already stored under its key counts as this one, unless its hash differs
    /// from `earlier`; if another object is stored there, the document gets another key.
    ///
    /// # Errors
    /// When the store returns an error, or other objects are stored under both keys.
    pub(crate) async fn publish(
        &mut self,
        checked: &DocumentDigest,
        earlier: Option<Sha256Hash>,
    ) -> Result<ArchivedDocument, ArchiveError> {
        if self.staged.is_some() {
            self.send_part().await?;
        }
        let Some(StagedUpload { path, mut upload }) = self.staged.take() else {
            let source = Source::Payload(PutPayload::from_iter(std::mem::take(&mut self.part)));
            return self.put_document(&source, checked, earlier).await;
        };
        upload.complete().await?;
        let source = Source::Staged(path.clone());
        let result = self.put_document(&source, checked, earlier).await;
        if let Err(error) = self.archive.store().delete(&path).await {
            tracing::warn!(%error, "could not remove a staged upload of file {}: {error}", self.file_id);
        }
        result
    }

    async fn put_document(
        &mut self,
        source: &Source,
        checked: &DocumentDigest,
        earlier: Option<Sha256Hash>,
    ) -> Result<ArchivedDocument, ArchiveError> {
        let key = Archive::key(self.mode, self.file_id);
        if self.archive.put(source, &key).await? {
            return Ok(ArchivedDocument { key, sum: *checked });
        }
        if let Some(found) = self.archive.inspect(&key).await? {
            let is_document = found.is_document && earlier.is_none_or(|earlier| earlier == found.sum.sha256);
            if found.sum == *checked || is_document {
                return Ok(ArchivedDocument { key, sum: found.sum });
            }
        }
        let key = Archive::other_key(self.mode, self.file_id, checked.sha256);
        if self.archive.put(source, &key).await? {
            return Ok(ArchivedDocument { key, sum: *checked });
        }
        match self.archive.inspect(&key).await? {
            Some(found) if found.sum != *checked => {
                Err(ArchiveError::Conflict { key, stored: found.sum.sha256, received: checked.sha256 })
            }
            _ => Ok(ArchivedDocument { key, sum: *checked }),
        }
    }

    /// Discards the upload.
    pub(crate) async fn abort(&mut self) {
        self.part.clear();
        let Some(mut staged) = self.staged.take() else { return };
        if let Err(error) = staged.upload.abort().await {
            tracing::warn!(%error, "could not remove a staged upload of file {}: {error}", self.file_id);
        }
    }

    async fn send_part(&mut self) -> Result<(), ArchiveError> {
        if self.staged.is_none() {
            let staging = Path::from(format!("staging/{}/{}", self.mode, self.file_id));
            self.staged = Some(begin(&self.archive, &staging).await?);
        }
        let payload = PutPayload::from_iter(std::mem::take(&mut self.part));
        self.part_bytes = 0;
        if let Some(staged) = &mut self.staged {
            staged.upload.put_part(payload).await?;
        }
        Ok(())
    }
}

/// Starts a staged upload, and removes leftovers of earlier attempts for this document.
///
/// This makes another attempt fail that still runs although its lease has ended; it finds the document in the archive later.
async fn begin(archive: &Archive, staging: &Path) -> Result<StagedUpload, ArchiveError> {
    let store = archive.store();
    let left: Vec<_> = store.list(Some(staging)).try_collect().await?;
    for object in left {
        store.delete(&object.location).await?;
    }
    let path = staging.clone().join(Uuid::new_v4().to_string());
    let upload = store.put_multipart(&path).await?;
    Ok(StagedUpload { path, upload })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::{ObjectStore, local::LocalFileSystem, memory::InMemory};
    use riverlock_schemas::{FileId, Mode, hash::Sha256Hash};

    use super::*;

    const PART_BYTES: usize = 10;

    fn archives() -> (tempfile::TempDir, [Archive; 2]) {
        let folder = tempfile::tempdir().unwrap();
        let local = LocalFileSystem::new_with_prefix(folder.path()).unwrap().with_fsync(true);
        let stores: [Arc<dyn ObjectStore>; 2] = [Arc::new(local), Arc::new(InMemory::new())];
        (folder, stores.map(|store| Archive::new(store, PART_BYTES)))
    }

    async fn store(archive: &Archive, file_id: FileId, document: &[u8]) -> Result<ArchivedDocument, ArchiveError> {
        store_again(archive, file_id, document, None).await
    }

    async fn store_again(
        archive: &Archive,
        file_id: FileId,
        document: &[u8],
        earlier: Option<Sha256Hash>,
    ) -> Result<ArchivedDocument, ArchiveError> {
        let checked = DocumentDigest { sha256: Sha256Hash::of(document), size_bytes: document.len() as u64 };
        let mut upload = archive.upload(Mode::Test, file_id);
        for chunk in document.chunks(7) {
            upload.write(Bytes::copy_from_slice(chunk)).await?;
        }
        upload.publish(&checked, earlier).await
    }

    async fn keys(archive: &Archive) -> Vec<String> {
        let objects: Vec<_> = archive.store().list(None).try_collect().await.unwrap();
        objects.into_iter().map(|object| object.location.to_string()).collect()
    }

    fn file(folder: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| if path.is_dir() { file(&path) } else { 1 }).sum()
    }

    #[tokio::test]
    async fn a_document_of_any_size_is_stored_as_exactly_one_object() {
        let (folder, archives) = archives();
        for archive in archives {
            for (number, size) in [1, 9, 10, 11, 20, 21, 95].into_iter().enumerate() {
                let file_id = FileId::from(Uuid::from_u128(number as u128));
                let document: Vec<u8> = (0..size).collect();
                store(&archive, file_id, &document).await.unwrap();
                let key = Archive::key(Mode::Test, file_id);
                let (sha256, size_bytes) = archive.digest(&key).await.unwrap();
                assert_eq!((sha256, size_bytes), (Sha256Hash::of(&document), u64::from(size)), "{size}");
                assert_eq!(keys(&archive).await.len(), number + 1);
            }
        }
        assert_eq!(file(folder.path()), 7);
    }

    fn pdf(filling: &str) -> Vec<u8> {
        format!("%PDF-1.4\n{filling}\n%%EOF\n").into_bytes()
    }

    #[tokio::test]
    async fn an_existing_document_is_kept_and_returned() {
        let (_folder, archives) = archives();
        for archive in archives {
            let file_id = FileId::from(Uuid::from_u128(1));
            let (document, rendered_again) = (pdf("a"), pdf("b"));
            let first = store(&archive, file_id, &document).await.unwrap();
            assert_eq!(first.key, Archive::key(Mode::Test, file_id));
            assert_eq!(store(&archive, file_id, &document).await.unwrap(), first);
            assert_eq!(
                store(&archive, file_id, &rendered_again).await.unwrap(),
                first,
                "the stored document is returned"
            );
            // The same if its hash equals `earlier`.
            let earlier = Some(Sha256Hash::of(&document));
            assert_eq!(store_again(&archive, file_id, &rendered_again, earlier).await.unwrap(), first);
            assert_eq!(archive.digest(&first.key).await.unwrap().0, Sha256Hash::of(&document));
            assert_eq!(keys(&archive).await.len(), 1);
        }
    }

    #[tokio::test]
    async fn a_document_whose_key_is_taken_by_another_object_gets_another_key() {
        let (_folder, archives) = archives();
        for archive in archives {
            let (document, hash) = (pdf("a"), Sha256Hash::of(&pdf("a")));
            // An object that is not a document, and documents with other hashes than the earlier one.
            for (number, other, earlier) in
                [(1, b"half a doc".to_vec(), None), (2, pdf("b"), Some(hash)), (3, pdf("b"), Some(Sha256Hash::of(b"")))]
            {
                let file_id = FileId::from(Uuid::from_u128(number));
                let key = Path::from(Archive::key(Mode::Test, file_id));
                archive.store().put(&key, other.clone().into()).await.unwrap();
                let placed = store_again(&archive, file_id, &document, earlier).await.unwrap();
                assert_eq!(
                    (placed.key.clone(), placed.sum.sha256),
                    (Archive::other_key(Mode::Test, file_id, hash), hash)
                );
                assert_eq!(archive.digest(&placed.key).await.unwrap().0, hash);
                assert_eq!(archive.digest(key.as_ref()).await.unwrap().0, Sha256Hash::of(&other), "it is unchanged");
                assert_eq!(store_again(&archive, file_id, &document, earlier).await.unwrap(), placed, "a second time");
                let placed = Path::from(placed.key);
                archive.store().put(&placed, "x".into()).await.unwrap();
                let error = store_again(&archive, file_id, &document, earlier).await.unwrap_err();
                assert!(matches!(error, ArchiveError::Conflict { .. }), "{error}");
            }
        }
    }

    #[tokio::test]
    async fn the_next_attempt_removes_staged_uploads_of_an_interrupted_one() {
        let (_folder, archives) = archives();
        for archive in archives {
            let file_id = FileId::from(Uuid::from_u128(1));
            let left = Path::from(format!("staging/test/{file_id}/left"));
            archive.store().put(&left, "half".into()).await.unwrap();
            store(&archive, file_id, &[1; 50]).await.unwrap();
            assert_eq!(keys(&archive).await, [Archive::key(Mode::Test, file_id)]);
        }
    }

    #[tokio::test]
    async fn an_aborted_upload_leaves_nothing() {
        let (folder, archives) = archives();
        for archive in archives {
            for size in [5, 50] {
                let mut upload = archive.upload(Mode::Live, FileId::from(Uuid::from_u128(1)));
                upload.write(Bytes::from(vec![0; size])).await.unwrap();
                upload.abort().await;
            }
            assert!(keys(&archive).await.is_empty());
        }
        assert_eq!(file(folder.path()), 0);
    }
}
