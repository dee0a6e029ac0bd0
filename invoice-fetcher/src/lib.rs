#![doc = include_str!("../README.md")]

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
