//! Where documents are kept: a local folder, S3 and what is compatible with it, Google Cloud Storage, or Azure.
//!
//! Invariants:
//! - a document's key is made of its mode and its file id and of nothing else. Only where that key is taken by something that
//!   is not the document, the first digits of the document's hash are added;
//! - nothing is ever overwritten: publishing is conditional on the key being free, in the store itself, so two workers (or a
//!   worker that died after storing and its successor) cannot overwrite each other;
//! - a document that is there already counts as stored, whatever Digital River serves by now: the same file may be rendered
//!   anew with other bytes;
//! - nothing is visible under a document's key before it is whole and checked.
//!
//! How: a document of up to 5 MiB is one conditional put (`PutMode::Create`: a hard link in a folder, `If-None-Match`
//! in S3 and Azure, `ifGenerationMatch` in Google Cloud Storage). A larger one streams as a multipart upload to a staging key and is copied on the condition that the document's key
//! is free; so memory holds one part per download. In a folder, file and directory are flushed to disk before the put
//! returns (`fsync`), because the row that says "stored" must not outlive the file; the others answer only once the object is
//! durable.
//!
//! What a death leaves behind: staged uploads, and in a folder `….pdf#1` files that were never published; `sweep.rs` removes
//! both. In a bucket also parts of multipart uploads that never ended: set the lifecycle rules that `bucket.rs` names, where the
//! rights and credentials are that a bucket needs.

pub(crate) mod bucket;
pub(crate) mod pdf;
pub(crate) mod sweep;
pub(crate) mod upload;
pub mod verify;

use std::{
    fmt,
    path::{Path as FolderPath, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutMode, PutPayload, local::LocalFileSystem, path::Path,
};
use riverlock_runtime::ConfigError;
use riverlock_schemas::{FileId, Mode, hash::Sha256Hash};
use sha2::{Digest, Sha256};

use crate::{
    InvoiceFetcherConfig,
    archive::pdf::{Checker, DocumentDigest},
};

/// Bytes of one part of a multipart upload, and the most that is put at once. Source: S3 takes no smaller parts than 5 MiB
/// but the last.
pub(crate) const PART_BYTES: usize = 5 * 1024 * 1024;

/// Digits of a document's hash in [`Archive::other_key`].
pub(crate) const HASH_DIGITS: usize = 16;

/// The object store did not do as it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The store refused, or could not be reached.
    #[error("{0}")]
    Store(#[from] object_store::Error),
    /// The store's folder cannot be read.
    #[error("{0}")]
    Folder(#[source] std::io::Error),
    /// Something else is stored under the key, and nothing may be overwritten.
    #[error("something else is stored under {key}, with SHA-256 {stored} and not {received}")]
    Conflict {
        /// The key.
        key: String,
        /// Hash of what is stored.
        stored: Sha256Hash,
        /// Hash of what should have been.
        received: Sha256Hash,
    },
}

impl ArchiveError {
    /// Whether there is nothing under the key.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Store(object_store::Error::NotFound { .. }))
    }

    /// Whether the store refused for want of rights.
    pub(crate) fn is_denied(&self) -> bool {
        use object_store::Error::{PermissionDenied, Unauthenticated};
        matches!(self, Self::Store(PermissionDenied { .. } | Unauthenticated { .. }))
    }
}

/// The documents' store.
#[derive(Clone)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    part_bytes: usize,
    /// The folder of a local store, if it is one.
    folder: Option<PathBuf>,
}

/// What lies under a key, read whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inspection {
    pub(crate) sum: DocumentDigest,
    /// Whether it is a whole PDF.
    pub(crate) is_document: bool,
}

/// What is put under a key.
pub(crate) enum Source {
    /// These bytes.
    Payload(PutPayload),
    /// A staged object.
    Staged(Path),
}

/// A stored object.
pub(crate) struct Object {
    pub(crate) size_bytes: u64,
    pub(crate) stream: BoxStream<'static, Result<Bytes, object_store::Error>>,
}

impl Object {
    /// Hash and size (bytes) of what comes.
    pub(crate) async fn digest(mut self) -> Result<(Sha256Hash, u64), ArchiveError> {
        let (mut hash, mut size_bytes) = (Sha256::new(), 0);
        while let Some(bytes) = self.stream.try_next().await? {
            hash.update(&bytes);
            size_bytes += bytes.len() as u64;
        }
        Ok((Sha256Hash::from_digest(hash.finalize().into()), size_bytes))
    }
}

impl fmt::Debug for Archive {
    /// Only the store's name: what it holds may be credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Archive({})", self.store)
    }
}

impl Archive {
    /// Opens the store that is configured. A local folder is created when it is missing.
    ///
    /// # Errors
    /// When the address or an option is wrong, or the folder cannot be created.
    pub fn open(config: &InvoiceFetcherConfig) -> Result<Self, ConfigError> {
        let (scheme, prefix) = parse(config)?;
        if scheme != ObjectStoreScheme::Local {
            return Ok(Self::new(bucket::open(config, &bucket::environment(), &scheme, prefix)?, PART_BYTES));
        }
        let mut archive = Self::new(Arc::new(folder(config)?), PART_BYTES);
        archive.folder = config.store.to_file_path().ok();
        Ok(archive)
    }

    /// Checks the address and the options, and asks nothing of the store.
    pub(crate) fn check(config: &InvoiceFetcherConfig) -> Result<(), ConfigError> {
        let (scheme, prefix) = parse(config)?;
        match scheme {
            ObjectStoreScheme::Local => match config.store_options.keys().next() {
                Some(key) => Err(bucket::unknown_option(key)),
                None => Ok(()),
            },
            _ => bucket::open(config, &bucket::environment(), &scheme, prefix).map(drop),
        }
    }

    pub(crate) fn new(store: Arc<dyn ObjectStore>, part_bytes: usize) -> Self {
        Self { store, part_bytes, folder: None }
    }

    /// A document's key: `invoices/{live|test}/{file id}.pdf`.
    #[must_use]
    pub fn key(mode: Mode, file_id: FileId) -> String {
        format!("invoices/{mode}/{file_id}.pdf")
    }

    /// The key of a document whose usual one is taken: `invoices/{live|test}/{file id}-{16 digits of its SHA-256}.pdf`.
    pub(crate) fn other_key(mode: Mode, file_id: FileId, sha256: Sha256Hash) -> String {
        let hash = sha256.to_string();
        format!("invoices/{mode}/{file_id}-{}.pdf", &hash[..HASH_DIGITS])
    }

    /// The bytes of a stored object, as they come.
    ///
    /// # Errors
    /// When the key is none, or the store does not have it or does not answer.
    pub async fn read(
        &self,
        object_key: &str,
    ) -> Result<BoxStream<'static, Result<Bytes, object_store::Error>>, ArchiveError> {
        Ok(self.get(object_key).await?.stream)
    }

    /// A stored object, with its size.
    pub(crate) async fn get(&self, object_key: &str) -> Result<Object, ArchiveError> {
        let path = Path::parse(object_key).map_err(object_store::Error::from)?;
        let result = self.store.get(&path).await?;
        Ok(Object { size_bytes: result.meta.size, stream: result.into_stream().boxed() })
    }

    /// The folder that the store is, if it is one.
    pub(crate) fn folder(&self) -> Option<&FolderPath> {
        self.folder.as_deref()
    }

    /// Hash and size (bytes) of a stored object, read from the store.
    ///
    /// # Errors
    /// When the key is none, or the store does not have it or does not answer.
    pub async fn digest(&self, object_key: &str) -> Result<(Sha256Hash, u64), ArchiveError> {
        self.get(object_key).await?.digest().await
    }

    /// Reads what lies under a key, if anything does.
    ///
    /// # Errors
    /// When the store does not answer, or breaks off.
    pub(crate) async fn inspect(&self, key: &str) -> Result<Option<Inspection>, ArchiveError> {
        let mut stream = match self.read(key).await {
            Err(error) if error.is_not_found() => return Ok(None),
            stream => stream?,
        };
        let (mut hash, mut size_bytes) = (Sha256::new(), 0);
        let mut checker = Some(Checker::new(u64::MAX));
        while let Some(bytes) = stream.try_next().await? {
            hash.update(&bytes);
            size_bytes += bytes.len() as u64;
            checker = checker.and_then(|mut checker| checker.push(&bytes).is_ok().then_some(checker));
        }
        let sha256 = Sha256Hash::from_digest(hash.finalize().into());
        let is_document = checker.is_some_and(|checker| checker.finish(&[]).is_ok());
        Ok(Some(Inspection { sum: DocumentDigest { sha256, size_bytes }, is_document }))
    }

    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    pub(crate) fn part_bytes(&self) -> usize {
        self.part_bytes
    }

    /// Puts a document under a key, and says whether the key was free.
    ///
    /// # Errors
    /// When the store does not do it.
    pub(crate) async fn put(&self, source: &Source, key: &str) -> Result<bool, ArchiveError> {
        let to = Path::from(key);
        let result = match source {
            Source::Payload(payload) => {
                self.store.put_opts(&to, payload.clone(), PutMode::Create.into()).await.map(drop)
            }
            Source::Staged(from) => self.store.copy_if_not_exists(from, &to).await,
        };
        match result {
            Ok(()) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn parse(config: &InvoiceFetcherConfig) -> Result<(ObjectStoreScheme, Path), ConfigError> {
    let (scheme, path) = ObjectStoreScheme::parse(&config.store).map_err(|error| refused(&error))?;
    match scheme {
        ObjectStoreScheme::Local
        | ObjectStoreScheme::AmazonS3
        | ObjectStoreScheme::GoogleCloudStorage
        | ObjectStoreScheme::MicrosoftAzure => Ok((scheme, path)),
        _ => Err(refused(&"must be file:///folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix")),
    }
}

fn folder(config: &InvoiceFetcherConfig) -> Result<LocalFileSystem, ConfigError> {
    let path = config.store.to_file_path().map_err(|()| refused(&"must be file:///folder"))?;
    let failed = |error: &dyn fmt::Display| refused(&format!("{} cannot be used: {error}", path.display()));
    std::fs::create_dir_all(&path).map_err(|error| failed(&error))?;
    let store = LocalFileSystem::new_with_prefix(&path).map_err(|error| failed(&error))?;
    Ok(store.with_fsync(true))
}

fn refused(reason: &dyn fmt::Display) -> ConfigError {
    ConfigError::refused("invoice_fetcher.store", reason.to_string())
}

#[cfg(test)]
mod tests {
    use riverlock_runtime::Secret;
    use url::Url;

    use super::*;

    #[test]
    fn a_bucket_is_opened_from_its_options_and_prints_none_of_them() {
        let mut config = InvoiceFetcherConfig { store: Url::parse("s3://bucket/a/b").unwrap(), ..Default::default() };
        for (key, value) in [
            ("aws_access_key_id", "canary-id"),
            ("aws_secret_access_key", "canary-secret"),
            ("aws_region", "eu-central-1"),
            ("aws_endpoint", "http://127.0.0.1:9"),
            ("aws_allow_http", "true"),
        ] {
            config.store_options.insert(key.to_owned(), Secret::new(value));
        }
        let archive = Archive::open(&config).unwrap();
        let text = format!("{archive:?} {config:?}");
        assert!(text.contains("bucket") && text.contains("a/b") && !text.contains("canary"), "{text}");
    }

    #[test]
    fn every_vendor_s_bucket_is_opened_and_options_of_another_are_refused() {
        for (store, option, value) in [
            ("gs://bucket/a", "google_skip_signature", "true"),
            ("az://container/a", "azure_storage_account_name", "account"),
        ] {
            let mut config = InvoiceFetcherConfig { store: Url::parse(store).unwrap(), ..Default::default() };
            config.store_options.insert(option.to_owned(), Secret::new(value));
            let archive = format!("{:?}", Archive::open(&config).unwrap_or_else(|error| panic!("{store}: {error}")));
            assert!(archive.contains('a'), "{archive}");
            config.store_options.insert("aws_region".to_owned(), Secret::new("x"));
            let error = Archive::open(&config).unwrap_err().to_string();
            assert!(error.contains("store_options.aws_region"), "{error}");
        }
    }

    #[test]
    fn a_folder_is_created_and_one_that_cannot_be_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        let open = |path: &std::path::Path| {
            let store = Url::from_directory_path(path).unwrap();
            Archive::open(&InvoiceFetcherConfig { store, ..Default::default() })
        };
        open(&inner).unwrap();
        std::fs::write(inner.join("file"), "").unwrap();
        let error = open(&inner.join("file/c")).unwrap_err().to_string();
        assert!(error.contains("invoice_fetcher.store") && error.contains("a/b/file/c"), "{error}");
    }
}
