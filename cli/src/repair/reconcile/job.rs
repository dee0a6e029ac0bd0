//! The background job that runs beside the processor.

use std::sync::Arc;

use anyhow::bail;
use riverlock_reconcile::job::Job;
use riverlock_runtime::{ConfigError, Context};

use super::client::{client, types};
use crate::config::Config;

/// Starts the background job, if it is configured.
pub(crate) fn start(config: &Config, context: &Context) -> anyhow::Result<()> {
    config.reconcile.validate()?;
    if config.reconcile.interval.is_none() {
        return Ok(());
    }
    let client = client(config)?;
    let types: Vec<_> = client.modes().map(|mode| (mode, types(config, mode))).collect();
    let types: Vec<_> = types.into_iter().filter(|(_, types)| !types.is_empty()).collect();
    if types.is_empty() {
        let reason = "needs an API key, and event types: set reconcile.types, or configure [[webhooks]]";
        bail!(ConfigError::refused("reconcile.interval", reason));
    }
    let job = Job {
        config: config.reconcile.clone(),
        client,
        kafka: Arc::new(config.kafka.clone()),
        postgres: config.postgres.clone(),
        consumers: config.consumers().to_vec(),
        types,
    };
    context.shutdown.spawn("reconcile", job.run(context.clone()));
    Ok(())
}
