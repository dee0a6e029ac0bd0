//! A background task that checks the registrations every few minutes, in one process at a time.

use std::{convert::Infallible, sync::Arc, time::Duration};

use anyhow::Context as _;
use riverlock_digital_river::{
    Client,
    webhooks::{WebhookConfig, watch},
};
use riverlock_ledger::{
    PostgresConfig,
    postgres::{self, Lock, bounded},
};
use riverlock_runtime::{Context, SystemClock, with_causes};
use sqlx::{Connection as _, PgConnection};

use crate::config::Config;

/// How often the registrations are checked. Digital River disables a webhook after days of failures, so minutes suffice.
const INTERVAL: Duration = Duration::from_secs(300);

/// How often a process without the lease tries to get it.
const LEASE_INTERVAL: Duration = Duration::from_secs(30);

/// How long the watcher may be silent before the process counts as stuck: longer than a request may take with all attempts at
/// it.
const STUCK_AFTER: Duration = Duration::from_secs(15 * 60);

/// Starts the watcher, if webhooks and an API key are configured.
pub(crate) fn start(config: &Config, context: &Context) -> anyhow::Result<()> {
    let digital_river = config.digital_river();
    if config.webhooks.is_empty() || digital_river.accounts().next().is_none() {
        return Ok(());
    }
    digital_river.validate()?;
    riverlock_digital_river::webhooks::config::validate(&config.webhooks)?;
    let client = Client::new(&digital_river, Arc::new(SystemClock))?;
    watch::describe(&client, &config.webhooks);
    let (webhooks, postgres) = (config.webhooks.clone(), config.postgres.clone());
    context.shutdown.spawn("webhooks", run(client, webhooks, postgres, context.clone()));
    Ok(())
}

async fn run(
    client: Client,
    webhooks: Vec<WebhookConfig>,
    postgres: PostgresConfig,
    context: Context,
) -> Result<(), Infallible> {
    let soft = context.shutdown.soft().clone();
    let component = context.health.register_beating("webhooks", STUCK_AFTER);
    // What the registrations say decides about no work.
    component.ready();
    let mut lease: Option<PgConnection> = None;
    while !soft.is_cancelled() {
        component.beat();
        let held = match lease.as_mut() {
            Some(connection) => bounded(postgres.answer_limit(), ping(connection)).await.is_ok(),
            None => {
                lease = take(&postgres).await.unwrap_or_else(|error| {
                    tracing::debug!("the webhook watcher has no lease: {}", with_causes(error.as_ref()));
                    None
                });
                lease.is_some()
            }
        };
        let wait = if held {
            for mode in client.modes() {
                component.beat();
                let now = context.clock.now().timestamp();
                if let Err(error) = watch::poll(&client, mode, &webhooks, now).await {
                    tracing::warn!("the webhooks registered for {mode} data could not be read: {error}");
                }
            }
            INTERVAL
        } else {
            lease = None;
            watch::forget(&webhooks);
            LEASE_INTERVAL
        };
        component.rest(wait, &soft).await;
    }
    Ok(())
}

async fn ping(connection: &mut PgConnection) -> Result<(), riverlock_ledger::Error> {
    Ok(connection.ping().await?)
}

/// A connection that holds the lease while it is open; `None` if another process has the lease.
async fn take(postgres: &PostgresConfig) -> anyhow::Result<Option<PgConnection>> {
    let mut connection = postgres.connect_as("webhooks").await.context("PostgreSQL does not take a connection")?;
    let held = bounded(postgres.answer_limit(), postgres::try_lock(&mut connection, Lock::Webhooks)).await?;
    Ok(held.then_some(connection))
}
