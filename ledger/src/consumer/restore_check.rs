//! Detects a regressed database while no new records arrive.
//!
//! A batch detects it too, when the stored offsets are before its position. But a quiet partition has no batches, and
//! its lost data must not wait for the next event.

use std::{sync::Arc, time::Duration};

use riverlock_runtime::Component;
use sqlx::PgConnection;
use tokio::time::{MissedTickBehavior, interval};

use crate::{Error, PostgresConfig, consumer::assignment::Assignment, postgres::bounded, store};

/// Time between two checks.
const INTERVAL: Duration = Duration::from_secs(5);
/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Compares PostgreSQL's offsets with those that it has confirmed, until the session ends.
pub(crate) async fn run(
    consumer: &'static str,
    postgres: PostgresConfig,
    shared: Arc<Assignment>,
    component: Component,
) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection: Option<PgConnection> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.end.cancelled() => return,
        }
        component.beat();
        match bounded(ANSWER_TIMEOUT, look(consumer, &postgres, &shared, connection.take())).await {
            Ok(usable) => {
                connection = Some(usable);
                component.ready();
            }
            Err(Error::Regressed) => shared.mark_regressed(),
            Err(error) => component.not_ready(error.to_string()),
        }
    }
}

pub(crate) async fn look(
    consumer: &str,
    postgres: &PostgresConfig,
    shared: &Assignment,
    connection: Option<PgConnection>,
) -> Result<PgConnection, Error> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => postgres.connect_as("offsets").await?,
    };
    // Read before PostgreSQL is asked: offsets only grow, so it cannot have less than it has confirmed.
    let confirmed = shared.confirmed();
    let stored = store::offsets(&mut connection, consumer).await?;
    let lost = confirmed.iter().any(|(partition, next)| stored.get(partition).is_none_or(|stored| stored < next));
    if lost { Err(Error::Regressed) } else { Ok(connection) }
}
