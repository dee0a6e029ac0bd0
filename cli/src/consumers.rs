//! What the consumers make of records, for commands that give them records again.

use riverlock_invoice_fetcher::InvoiceQueue;
use riverlock_processor::Orders;
use riverlock_runtime::ConfigError;

use crate::config::Config;

/// Refuses a configuration under which every record would be ignored. No secret is read.
///
/// # Errors
/// When no mode takes effect, or no account is configured.
pub(crate) fn check(config: &Config) -> Result<(), ConfigError> {
    if config.processor.modes.is_empty() {
        return Err(ConfigError::refused("processor.modes", "is empty; expected \"live\", \"test\" or both"));
    }
    if config.invoice_fetcher.live.is_none() && config.invoice_fetcher.test.is_none() {
        let reason =
            "no account is configured, so every document would be ignored; set test.api_key, live.api_key or both";
        return Err(ConfigError::refused("invoice_fetcher", reason));
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
