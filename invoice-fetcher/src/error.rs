//! Errors that stop the invoice-fetcher.

use riverlock_ledger::consumer::ConsumerError;
use riverlock_runtime::ConfigError;

/// The invoice-fetcher could not start, or cannot continue. Problems of single documents are not errors of the service: they
/// are retried or end in a discarded document.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Binding the listener of the API failed.
    #[error("invoice_fetcher.api.listen: cannot listen on {address}: {source}")]
    Listen {
        /// The configured address.
        address: std::net::SocketAddr,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The consumer failed.
    #[error(transparent)]
    Consumer(#[from] ConsumerError),
}
