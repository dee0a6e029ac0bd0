//! Tests of several modules together, with a hostile server and with PostgreSQL.

mod api;
mod bombs;
mod buckets;
mod child;
mod confinement;
mod credentials;
mod database;
mod fetching;
mod full;
mod hostile;
mod keys;
mod killed;
mod killing;
mod limits;
mod operators;
mod queueing;
mod s3;
mod server;
mod station;
mod vendors;
mod verdicts;
mod verifying;
mod waiting;
mod wire;

use riverlock_runtime::Secret;
use riverlock_schemas::FileId;
use url::Url;
use uuid::Uuid;

use crate::{AccountConfig, InvoiceFetcherConfig};

/// The API key that the servers accept.
const API_KEY: &str = "canary-key";

/// A configuration that downloads test data from `base` into `folder`.
fn config(base: &Url, folder: &std::path::Path) -> InvoiceFetcherConfig {
    InvoiceFetcherConfig {
        api_base_url: base.clone(),
        test: Some(AccountConfig { api_key: Secret::new(API_KEY), requests_per_second: Some(5_000) }),
        store: Url::from_directory_path(folder).unwrap(),
        document_bytes_max: 100_000,
        ..InvoiceFetcherConfig::default()
    }
}

fn file(number: u128) -> FileId {
    FileId::from(Uuid::from_u128(number))
}

/// A small PDF, different for every file.
fn document(file_id: FileId) -> Vec<u8> {
    let filling = "x".repeat(usize::from(file_id.as_uuid().as_bytes()[15]) * 10);
    format!("%PDF-1.4\n{file_id}{filling}\n%%EOF\n").into_bytes()
}

/// Every file in a directory, recursively.
fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
