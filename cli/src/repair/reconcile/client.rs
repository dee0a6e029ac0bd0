//! The client of Digital River's API, and the event types to compare.

use std::sync::Arc;

use riverlock_digital_river::{Client, webhooks::plan::WebhookPlan};
use riverlock_runtime::SystemClock;
use riverlock_schemas::Mode;

use crate::config::Config;

/// A client for the configured accounts.
pub(super) fn client(config: &Config) -> anyhow::Result<Client> {
    let digital_river = config.digital_river();
    digital_river.validate()?;
    config.reconcile.validate()?;
    Ok(Client::new(&digital_river, Arc::new(SystemClock))?)
}

/// The event types that are compared for a mode: `reconcile.types`, or those of the configured webhooks.
pub(super) fn types(config: &Config, mode: Mode) -> Vec<String> {
    if !config.reconcile.types.is_empty() {
        return config.reconcile.types.clone();
    }
    WebhookPlan::types(mode, &config.webhooks).into_iter().map(str::to_owned).collect()
}
