//! One document on its way into the archive.

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload, path::Path};
use uuid::Uuid;

use crate::{
    archive::{Archive, ArchiveError},
    pdf::Checked,
};

/// Takes bytes, keeps at most one part of them in memory, and publishes the document at the end.
pub(crate) struct Upload {
    archive: Archive,
    key: String,
    /// Where all staged uploads of this document lie.
    staging: Path,
    part: Vec<Bytes>,
    part_bytes: usize,
    staged: Option<Staged>,
}

struct Staged {
    path: Path,
    upload: Box<dyn MultipartUpload>,
}

impl Upload {
    pub(crate) fn new(archive: Archive, key: String, staging: Path) -> Self {
        Self { archive, key, staging, part: Vec::new(), part_bytes: 0, staged: None }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When the store does not take a part.
    pub(crate) async fn write(&mut self, mut bytes: Bytes) -> Result<(), ArchiveError> {
        while !bytes.is_empty() {
            // All parts but the last have the same size: some stores insist.
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

    /// Makes the document visible under its key, if the key is free or has the same bytes.
    ///
    /// # Errors
    /// When the store refuses, or another document is there.
    pub(crate) async fn publish(&mut self, checked: &Checked) -> Result<(), ArchiveError> {
        if self.staged.is_none() {
            let payload = PutPayload::from_iter(std::mem::take(&mut self.part));
            return self.archive.create(&self.key, payload, checked).await;
        }
        self.send_part().await?;
        let Some(mut staged) = self.staged.take() else { return Ok(()) };
        staged.upload.complete().await?;
        let result = self.archive.copy(&staged.path, &self.key, checked).await;
        if let Err(error) = self.archive.store().delete(&staged.path).await {
            tracing::warn!(%error, "a staged upload of {} was not removed: {error}", self.key);
        }
        result
    }

    /// Forgets what was written.
    pub(crate) async fn abort(&mut self) {
        self.part.clear();
        let Some(mut staged) = self.staged.take() else { return };
        if let Err(error) = staged.upload.abort().await {
            tracing::warn!(%error, "a staged upload of {} was not removed: {error}", self.key);
        }
    }

    async fn send_part(&mut self) -> Result<(), ArchiveError> {
        if self.staged.is_none() {
            self.staged = Some(begin(&self.archive, &self.staging).await?);
        }
        let payload = PutPayload::from_iter(std::mem::take(&mut self.part));
        self.part_bytes = 0;
        if let Some(staged) = &mut self.staged {
            staged.upload.put_part(payload).await?;
        }
        Ok(())
    }
}

/// Begins a staged upload, and removes what earlier attempts at this document left.
///
/// Another attempt that still runs although its lease has ended fails then, and finds the document stored later.
async fn begin(archive: &Archive, staging: &Path) -> Result<Staged, ArchiveError> {
    let store = archive.store();
    let left: Vec<_> = store.list(Some(staging)).try_collect().await?;
    for object in left {
        store.delete(&object.location).await?;
    }
    let path = staging.clone().join(Uuid::new_v4().to_string());
    let upload = store.put_multipart(&path).await?;
    Ok(Staged { path, upload })
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

    async fn store(archive: &Archive, file_id: FileId, document: &[u8]) -> Result<(), ArchiveError> {
        let checked = Checked { sha256: Sha256Hash::of(document), size_bytes: document.len() as u64 };
        let mut upload = archive.upload(Mode::Test, file_id);
        for chunk in document.chunks(7) {
            upload.write(Bytes::copy_from_slice(chunk)).await?;
        }
        upload.publish(&checked).await
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
    async fn a_document_of_any_size_is_stored_under_one_key_and_leaves_nothing_else() {
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

    #[tokio::test]
    async fn the_same_document_again_is_a_success_and_another_one_a_conflict_that_changes_nothing() {
        let (_folder, archives) = archives();
        for archive in archives {
            for size in [5, 50] {
                let file_id = FileId::from(Uuid::from_u128(size as u128));
                let (document, other) = (vec![1; size], vec![2; size]);
                store(&archive, file_id, &document).await.unwrap();
                store(&archive, file_id, &document).await.unwrap();
                let error = store(&archive, file_id, &other).await.unwrap_err();
                assert!(
                    matches!(&error, ArchiveError::Conflict { stored, .. } if *stored == Sha256Hash::of(&document))
                );
                let (sha256, _) = archive.digest(&Archive::key(Mode::Test, file_id)).await.unwrap();
                assert_eq!(sha256, Sha256Hash::of(&document));
            }
            assert_eq!(keys(&archive).await.len(), 2);
        }
    }

    #[tokio::test]
    async fn what_a_dead_attempt_staged_is_removed_by_the_next_one() {
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
    async fn an_attempt_that_is_given_up_leaves_nothing() {
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
