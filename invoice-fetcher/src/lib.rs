#![doc = include_str!("../README.md")]

pub mod account;
pub mod api;
pub mod archive;
pub mod client;
pub mod config;
pub mod error;
pub mod fetch;
pub mod metrics;
mod problem;
pub mod queue;

#[cfg(test)]
mod tests;
pub mod verify;

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

/// Queues announced documents and downloads them until shutdown. `load` reloads the configuration, for added accounts and for
/// new API keys and tokens.
///
/// # Errors
/// When the configuration is invalid, or the consumer fails.
pub async fn run(
    config: InvoiceFetcherConfig,
    load: Arc<fetch::keys::Load>,
    kafka: &KafkaConfig,
    postgres: &PostgresConfig,
    context: &Context,
) -> Result<(), Error> {
    let (projection, batch, api) = (InvoiceQueue::new(&config), config.batch.clone(), config.api.clone());
    let fetcher = start(config, postgres, context)?;
    if let (Some(api), Some(tokens)) = (api, fetcher.tokens()) {
        let (archive, queue) = (fetcher.archive.clone(), fetcher.queue().clone());
        let address = api::start(api.listen, tokens, archive, queue, context).await?;
        tracing::info!("the invoice API listens on http://{address}/v1/invoices/{{file id}}");
    }
    context.shutdown.spawn("invoice-keys", fetch::keys::run(fetcher, load, context.clone()));
    Ok(consumer::run(projection, kafka.topics().documents(), batch, kafka, postgres, context).await?)
}

/// Starts the tasks that download queued documents until shutdown. [`run`] does this and also fills the queue.
///
/// # Errors
/// When the configuration is invalid.
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
    context.shutdown.spawn("invoice-watch", fetch::watch::run(Arc::clone(&fetcher), watched, context.clone()));
    context.shutdown.spawn("invoice-sweep", archive::sweep::run(fetcher.archive.clone(), lease, context.clone()));
    context.shutdown.spawn("invoice-downloads", Arc::clone(&fetcher).run());
    Ok(fetcher)
}
