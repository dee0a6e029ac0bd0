//! Fetches the VAT invoices and credit memos that Digital River announces, checks them and archives them, each once.
//!
//! Two halves that meet in the table `invoices`: a consumer that turns announcing events into rows at once, so that no
//! partition waits for a download, and workers that lease due rows, download, check, store and mark.
//!
//! Invariants:
//! - what is fetched is built from the configuration and the file id; an address in an event is compared and never used;
//! - the API key goes to the configured host and nowhere else;
//! - a document is archived under a key made of ids, once, and only when it is whole; nothing is ever overwritten, and a
//!   document that is in the archive already is taken as it is;
//! - every document ends stored or visibly discarded with a reason, and what says nothing about a document (a refused key, a
//!   rate limit, a full disk, the process's end) discards none;
//! - a worker may die between any two steps: the document becomes due again, and is found stored if it was.
//!
//! Deliberately absent: any other service, any parsing of PDFs, any deletion of documents.

pub mod account;
pub mod api;
pub mod archive;
pub mod client;
pub mod config;
pub mod error;
mod fetch;
pub mod metrics;
mod problem;
pub mod queue;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use riverlock_ledger::{PostgresConfig, consumer};
use riverlock_runtime::{Context, kafka::KafkaConfig};

#[doc(hidden)]
pub use crate::archive::sweep::sweep;
pub use crate::queue::missing::MissingConfig;
pub use crate::queue::projection::{InvoiceQueue, NAME};
pub use api::ApiConfig;
pub use archive::{Archive, ArchiveError};
pub use config::{AccountConfig, InvoiceFetcherConfig, RetryConfig};
pub use error::Error;

/// Queues announced documents and fetches them, until the shutdown. `load` reads the configuration again, for accounts that
/// are added, and for new API keys and tokens.
///
/// # Errors
/// When the configuration is wrong, or the announcing events cannot be read without losing some.
pub async fn run(
    config: InvoiceFetcherConfig,
    load: Arc<account::keys::Load>,
    kafka: &KafkaConfig,
    postgres: &PostgresConfig,
    context: &Context,
) -> Result<(), Error> {
    let (projection, batch, api) = (InvoiceQueue::new(&config), config.batch.clone(), config.api.clone());
    let fetcher = start(config, postgres, context)?;
    if let (Some(api), Some(tokens)) = (api, fetcher.tokens()) {
        let (archive, queue) = (fetcher.archive.clone(), fetcher.queue().clone());
        let address = api::start(api.listen, tokens, archive, queue, context).await?;
        tracing::info!("documents are at http://{address}/v1/invoices/{{file id}}");
    }
    context.shutdown.spawn("invoice-keys", account::keys::run(fetcher, load, context.clone()));
    Ok(consumer::run(projection, kafka.topics().files(), batch, kafka, postgres, context).await?)
}

/// Starts to fetch what is queued, in tasks that live until the shutdown. [`run`] does this and fills the queue as well.
///
/// # Errors
/// When the configuration is wrong.
pub fn fetch(
    config: InvoiceFetcherConfig,
    postgres: &PostgresConfig,
    context: &Context,
) -> Result<(), riverlock_runtime::ConfigError> {
    start(config, postgres, context).map(drop)
}

fn start(
    config: InvoiceFetcherConfig,
    postgres: &PostgresConfig,
    context: &Context,
) -> Result<Arc<fetch::worker::Fetcher>, riverlock_runtime::ConfigError> {
    let (watched, lease) = (config.clone(), config.lease);
    let fetcher = Arc::new(fetch::worker::Fetcher::new(config, postgres, context.clone())?);
    context.shutdown.spawn("invoice-watch", queue::watch::run(Arc::clone(&fetcher), watched, context.clone()));
    context.shutdown.spawn("invoice-sweep", archive::sweep::run(fetcher.archive.clone(), lease, context.clone()));
    context.shutdown.spawn("invoice-downloads", Arc::clone(&fetcher).run());
    Ok(fetcher)
}
