//! Why the invoice-fetcher cannot run.

use riverlock_ledger::consumer::ConsumerError;
use riverlock_runtime::ConfigError;

/// The invoice-fetcher could not start, or cannot go on. What goes wrong with single documents is not here: it is planned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address of the API cannot be listened on.
    #[error("invoice_fetcher.api.listen: {address} cannot be listened on: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The announcing events cannot be read.
    #[error(transparent)]
    Consumer(#[from] ConsumerError),
}
