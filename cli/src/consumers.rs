//! The consumers' projections, for commands that process records again.

use riverlock_invoice_fetcher::InvoiceQueue;
use riverlock_processor::Orders;
use riverlock_runtime::ConfigError;

use crate::config::Config;

/// Rejects a configuration with which every order event would be ignored. Reads no secret.
///
/// # Errors
/// When `processor.modes` is empty.
pub(crate) fn check(config: &Config) -> Result<(), ConfigError> {
    if config.processor.modes.is_empty() {
        return Err(ConfigError::refused("processor.modes", "is empty; expected \"live\", \"test\" or both"));
    }
    Ok(())
}

/// The projection of the processor.
pub(crate) fn orders(config: &Config) -> Orders {
    Orders::new(config.processor.modes.clone())
}

/// The projection of the invoice-fetcher.
pub(crate) fn invoices(config: &Config) -> InvoiceQueue {
    InvoiceQueue::new(&config.invoice_fetcher)
}
