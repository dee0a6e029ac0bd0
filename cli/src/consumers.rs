//! What the consumers make of records, for commands that give them records again.

use riverlock_invoice_fetcher::InvoiceQueue;
use riverlock_processor::Orders;
use riverlock_runtime::ConfigError;

use crate::config::Config;

/// Refuses a configuration under which every order event would be ignored. No secret is read.
///
/// # Errors
/// When no mode takes effect.
pub(crate) fn check(config: &Config) -> Result<(), ConfigError> {
    if config.processor.modes.is_empty() {
        return Err(ConfigError::refused("processor.modes", "is empty; expected \"live\", \"test\" or both"));
    }
    Ok(())
}

/// What the processor makes of records.
pub(crate) fn orders(config: &Config) -> Orders {
    Orders::new(config.processor.modes.clone())
}

/// What the invoice-fetcher makes of records.
pub(crate) fn invoices(config: &Config) -> InvoiceQueue {
    InvoiceQueue::new(&config.invoice_fetcher)
}
