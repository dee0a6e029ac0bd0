//! The archive of documents: a local directory, S3 and compatible stores, Google Cloud Storage, or Azure.
//!
//! Invariants:
//! - a document's key consists of its mode and its file id. Only if another object is stored under that key, the first digits
//!   of the document's hash are added;
//! - nothing is ever overwritten: publishing is conditional on the key being free, in the store itself, so two workers (or a
//!   worker that died after storing and its successor) cannot overwrite each other;
//! - a document that is already in the archive counts as stored, even if Digital River now returns other bytes, because it may
//!   render the same file again;
//! - nothing is visible under a document's key before it is complete and checked.
//!
//! Implementation: a document of up to 5 MiB is one conditional put (`PutMode::Create`: a hard link in a directory,
//! `If-None-Match` in S3 and Azure, `ifGenerationMatch` in Google Cloud Storage). A larger one is streamed as a multipart
//! upload to a staging key and copied on the condition that the document's key is free, so each download holds one part in
//! memory. In a directory, file and directory are flushed to disk before the put returns (`fsync`), because the file must be
//! durable before the row says `stored`; the other stores answer only when the object is durable.
//!
//! A killed process leaves staged uploads, and in a directory `….pdf#1` files that were never published; `sweep.rs` removes
//! both. In a bucket it also leaves parts of incomplete multipart uploads; `bucket.rs` lists the lifecycle rules that remove
//! them, and the permissions and credentials that a bucket needs.

pub(crate) mod bucket;
pub(crate) mod pdf;
pub(crate) mod sweep;
pub(crate) mod upload;

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

/// Size of one part of a multipart upload, and maximum size of a single put, bytes. Source: S3's minimum for all parts except
/// the last is 5 MiB.
pub(crate) const PART_BYTES: usize = 5 * 1024 * 1024;

/// Digits of a document's hash in [`Archive::other_key`].
pub(crate) const HASH_DIGITS: usize = 16;

/// An error of the archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The store returned an error or is unavailable.
    #[error("{0}")]
    Store(#[from] object_store::Error),
    /// The store's directory cannot be read.
    #[error("{0}")]
    Folder(#[source] std::io::Error),
    /// Another object is stored under the key and is not overwritten.
    #[error("another object is stored under {key}, with SHA-256 {stored} instead of {received}")]
    Conflict {
        /// The key.
        key: String,
        /// Hash of the stored object.
        stored: Sha256Hash,
        /// Hash of the document.
        received: Sha256Hash,
    },
}

impl ArchiveError {
    /// Whether the key is free.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Store(object_store::Error::NotFound { .. }))
    }

    /// Whether the store rejected the request because of missing permissions.
    pub(crate) fn is_denied(&self) -> bool {
        use object_store::Error::{PermissionDenied, Unauthenticated};
        matches!(self, Self::Store(PermissionDenied { .. } | Unauthenticated { .. }))
    }
}

/// The archive.
#[derive(Clone)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    part_bytes: usize,
    /// The directory of a local store.
    folder: Option<PathBuf>,
}

/// The result of reading a stored object completely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inspection {
    pub(crate) sum: DocumentDigest,
    /// Whether it is a complete PDF.
    pub(crate) is_document: bool,
}

/// The source of a put.
pub(crate) enum Source {
    /// Bytes in memory.
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
    /// Reads the object and returns its hash and size in bytes.
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
    /// Prints only the store's name, because other fields may contain credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Archive({})", self.store)
    }
}

impl Archive {
    /// Opens the configured store. A local directory is created if it does not exist.
    ///
    /// # Errors
    /// When the URL or an option is invalid, or the directory cannot be created.
    pub fn open(config: &InvoiceFetcherConfig) -> Result<Self, ConfigError> {
        let (scheme, prefix) = parse(config)?;
        if scheme != ObjectStoreScheme::Local {
            return Ok(Self::new(bucket::open(config, &bucket::environment(), &scheme, prefix)?, PART_BYTES));
        }
        let mut archive = Self::new(Arc::new(folder(config)?), PART_BYTES);
        archive.folder = config.store.to_file_path().ok();
        Ok(archive)
    }

    /// Validates the URL and the options without accessing the store.
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

    /// The key of a document whose usual key is taken by another object: `invoices/{live|test}/{file id}-{16 digits of its
    /// SHA-256}.pdf`.
    pub(crate) fn other_key(mode: Mode, file_id: FileId, sha256: Sha256Hash) -> String {
        let hash = sha256.to_string();
        format!("invoices/{mode}/{file_id}-{}.pdf", &hash[..HASH_DIGITS])
    }

    /// Streams the bytes of a stored object.
    ///
    /// # Errors
    /// When the key is invalid or not found, or the store is unavailable.
    pub async fn read(
        &self,
        object_key: &str,
    ) -> Result<BoxStream<'static, Result<Bytes, object_store::Error>>, ArchiveError> {
        Ok(self.get(object_key).await?.stream)
    }

    /// Opens a stored object.
    pub(crate) async fn get(&self, object_key: &str) -> Result<Object, ArchiveError> {
        let path = Path::parse(object_key).map_err(object_store::Error::from)?;
        let result = self.store.get(&path).await?;
        Ok(Object { size_bytes: result.meta.size, stream: result.into_stream().boxed() })
    }

    /// The directory of a local store.
    pub(crate) fn folder(&self) -> Option<&FolderPath> {
        self.folder.as_deref()
    }

    /// Reads a stored object and returns its hash and size in bytes.
    ///
    /// # Errors
    /// When the key is invalid or not found, or the store is unavailable.
    pub async fn digest(&self, object_key: &str) -> Result<(Sha256Hash, u64), ArchiveError> {
        self.get(object_key).await?.digest().await
    }

    /// Reads the object under a key, if there is one.
    ///
    /// # Errors
    /// When the store is unavailable or the connection breaks.
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

    /// Puts a document under a key unless it is taken. Returns whether the key was free.
    ///
    /// # Errors
    /// When the store returns an error or is unavailable.
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
    let (scheme, path) = ObjectStoreScheme::parse(&config.store).map_err(|error| invalid(&error))?;
    match scheme {
        ObjectStoreScheme::Local
        | ObjectStoreScheme::AmazonS3
        | ObjectStoreScheme::GoogleCloudStorage
        | ObjectStoreScheme::MicrosoftAzure => Ok((scheme, path)),
        _ => Err(invalid(&"must be file:///folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix")),
    }
}

fn folder(config: &InvoiceFetcherConfig) -> Result<LocalFileSystem, ConfigError> {
    let path = config.store.to_file_path().map_err(|()| invalid(&"must be file:///folder"))?;
    let failed = |error: &dyn fmt::Display| invalid(&format!("{} cannot be used: {error}", path.display()));
    std::fs::create_dir_all(&path).map_err(|error| failed(&error))?;
    let store = LocalFileSystem::new_with_prefix(&path).map_err(|error| failed(&error))?;
    Ok(store.with_fsync(true))
}

fn invalid(reason: &dyn fmt::Display) -> ConfigError {
    ConfigError::refused("invoice_fetcher.store", reason.to_string())
}

#[cfg(test)]
mod tests {
    use riverlock_runtime::Secret;
    use url::Url;

    use super::*;

    #[test]
    fn a_bucket_is_opened_with_options_that_are_never_printed() {
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
    fn buckets_of_every_vendor_are_opened_and_options_of_others_rejected() {
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
    fn a_directory_is_created_or_named_in_the_error() {
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
