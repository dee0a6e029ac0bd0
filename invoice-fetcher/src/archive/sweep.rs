//! Removes leftovers of interrupted attempts from the archive: staged uploads in all stores, and partially written files in a
//! directory.
//!
//! A leftover is removed only if it is far older than any running attempt. Documents are never removed. This interface cannot
//! list parts of incomplete multipart uploads; buckets need a lifecycle rule for them.

use std::{convert::Infallible, path::Path, time::Duration};

use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use metrics::counter;
use object_store::{ObjectStoreExt as _, path::Path as ObjectPath};
use riverlock_runtime::{Component, Context};
use riverlock_schemas::FileId;

use crate::{Archive, ArchiveError, archive::HASH_DIGITS, metrics as names};

/// Minimum age of a leftover. Attempts take minutes; the lease, which can be longer, is added.
const AGE_MIN: Duration = Duration::from_secs(24 * 3600);

/// Interval between sweeps.
const INTERVAL: Duration = Duration::from_secs(12 * 3600);

/// Interval of heartbeats while this task waits.
const BEAT_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum time between heartbeats. A sweep of a directory of any realistic size takes less.
const BEAT_AGE_MAX: Duration = Duration::from_secs(3600);

/// Sweeps at the start and then regularly, until shutdown.
pub(crate) async fn run(archive: Archive, lease: Duration, context: Context) -> Result<(), Infallible> {
    let soft = context.shutdown.soft().clone();
    let component = context.health.register_beating("invoice-sweep", BEAT_AGE_MAX);
    component.ready();
    while !soft.is_cancelled() {
        component.beat();
        let before = context.clock.now() - (AGE_MIN + lease);
        let swept = tokio::select! {
            swept = sweep(&archive, before) => swept,
            () = soft.cancelled() => break,
        };
        match swept {
            Ok(0) => {}
            Ok(removed) => {
                tracing::info!(removed, "removed {removed} leftovers of interrupted attempts from the archive");
            }
            Err(error) => tracing::warn!(%error, "leftovers of dead attempts could not be removed: {error}"),
        }
        tokio::select! {
            () = wait(&component) => {}
            () = soft.cancelled() => {}
        }
    }
    Ok(())
}

/// Waits until the next sweep.
async fn wait(component: &Component) {
    let until = tokio::time::Instant::now() + INTERVAL;
    while tokio::time::Instant::now() < until {
        component.beat();
        tokio::time::sleep(BEAT_INTERVAL).await;
    }
}

/// Removes leftovers that were last modified before `before`, and returns their number.
///
/// # Errors
/// When the archive cannot be listed, or a leftover cannot be removed.
pub async fn sweep(archive: &Archive, before: DateTime<Utc>) -> Result<u64, ArchiveError> {
    let mut removed = 0;
    let staging = ObjectPath::from("staging");
    let store = archive.store();
    let mut staged = store.list(Some(&staging));
    while let Some(object) = staged.try_next().await? {
        if object.last_modified < before {
            store.delete(&object.location).await?;
            removed += 1;
        }
    }
    drop(staged);
    if let Some(folder) = archive.folder() {
        let folder = folder.to_path_buf();
        let swept = tokio::task::spawn_blocking(move || sweep_folder(&folder, before)).await;
        removed += swept.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(ArchiveError::Folder)?;
    }
    counter!(names::LEFTOVERS).increment(removed);
    Ok(removed)
}

/// Removes files that a local store was writing when the process ended. It names them `{name}#{number}` until they are
/// complete.
fn sweep_folder(folder: &Path, before: DateTime<Utc>) -> std::io::Result<u64> {
    let mut removed = 0;
    for area in ["invoices", "staging"] {
        let mut folders = vec![folder.join(area)];
        while let Some(inner) = folders.pop() {
            let entries = match std::fs::read_dir(&inner) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else if is_partial_file(&entry.path()) && is_older(&entry, before) {
                    std::fs::remove_file(entry.path())?;
                    removed += 1;
                }
            }
        }
    }
    Ok(removed)
}

/// Whether a name is that of a document (see [`Archive::key`] and [`Archive::other_key`]) or of a staged upload, followed by
/// `#{number}`.
fn is_partial_file(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split_once('#').is_some_and(|(name, number)| {
        let id = name.strip_suffix(".pdf").unwrap_or(name);
        let hash = |rest: &str| rest.len() == HASH_DIGITS && rest.bytes().all(|digit| digit.is_ascii_hexdigit());
        let id = id.rsplit_once('-').filter(|(_, rest)| hash(rest)).map_or(id, |(id, _)| id);
        FileId::parse(id).is_ok() && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn is_older(entry: &std::fs::DirEntry, before: DateTime<Utc>) -> bool {
    let changed = entry.metadata().and_then(|metadata| metadata.modified());
    changed.is_ok_and(|changed| DateTime::<Utc>::from(changed) < before)
}

#[cfg(test)]
mod tests {
    use riverlock_runtime::{Clock as _, SystemClock};
    use url::Url;

    use super::*;
    use crate::InvoiceFetcherConfig;

    #[tokio::test]
    async fn only_old_leftovers_are_removed_and_no_documents() {
        let folder = tempfile::tempdir().unwrap();
        let store = Url::from_directory_path(folder.path()).unwrap();
        let archive = Archive::open(&InvoiceFetcherConfig { store, ..Default::default() }).unwrap();
        let id = "6e5bf525-3907-40c5-86a9-f14ce4f33f35";
        let kept = [
            format!("invoices/test/{id}.pdf"),
            format!("invoices/test/{id}-0123456789abcdef.pdf"),
            "invoices/test/notes#1".to_owned(),
            "other/a#1".to_owned(),
        ];
        let left = [
            format!("invoices/test/{id}.pdf#1"),
            format!("invoices/live/{id}.pdf#12"),
            format!("invoices/live/{id}-0123456789abcdef.pdf#2"),
            format!("staging/test/{id}/{id}"),
            format!("staging/test/{id}/{id}#3"),
        ];
        for name in kept.iter().chain(&left) {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let now = SystemClock.now();
        assert_eq!(sweep(&archive, now - Duration::from_secs(60)).await.unwrap(), 0, "too recent");
        assert_eq!(sweep(&archive, now + Duration::from_secs(60)).await.unwrap(), 5);
        assert!(kept.iter().all(|name| folder.path().join(name).exists()));
        assert!(!left.iter().any(|name| folder.path().join(name).exists()));
        assert_eq!(sweep(&archive, now + Duration::from_secs(60)).await.unwrap(), 0);
    }
}
