//! Why the invoice-fetcher cannot run.

use riverlock_ledger::consumer::ConsumerError;
use riverlock_runtime::ConfigError;

/// The invoice-fetcher could not start, or cannot go on. What goes wrong with single documents is not here: it is planned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The announcing events cannot be read.
    #[error(transparent)]
    Consumer(#[from] ConsumerError),
}
