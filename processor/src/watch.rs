//! Counts orders that were accepted and have not ended, as metrics.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use metrics::{describe_gauge, gauge};
use riverlock_ledger::{Error, PostgresConfig, postgres::bounded};
use riverlock_runtime::Context;
use riverlock_schemas::Mode;

/// Accepted orders that have not ended, by mode and time since they were accepted.
const INCOMPLETE: &str = "riverlock_orders_incomplete";

/// Label values of the time since an order was accepted: less than a day, a week or a month, or more.
const AGES: [&str; 4] = ["day", "week", "month", "older"];
/// The bounds between [`AGES`], in seconds.
const AGE_BOUNDS: [f64; 3] = [86_400.0, 7.0 * 86_400.0, 30.0 * 86_400.0];

/// Minimum time between two counts.
const INTERVAL: Duration = Duration::from_secs(15);
/// Minimum pause between counts, as a multiple of their duration: a large table is counted more rarely.
const PAUSE_FACTOR: u32 = 50;
/// Wait after an error.
const RETRY_WAIT: Duration = Duration::from_secs(5);
/// Time without a heartbeat after which the process counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(300);

/// Counts until the shutdown. Errors are logged and retried; it never returns an error.
pub(crate) async fn run(postgres: PostgresConfig, context: Context) -> Result<(), Infallible> {
    describe_gauge!(
        INCOMPLETE,
        "Accepted orders that have not ended, by mode and time since they were accepted: less than a day, a week or a month, or more; NaN while they cannot be counted; use the maximum"
    );
    publish(|_, _| 0.0);
    let soft = context.shutdown.soft().clone();
    let component = context.health.register_beating("orders-watch", STUCK_AFTER);
    // Orders are computed all the same, so a failed count does not make the process unready.
    component.ready();
    while !soft.is_cancelled() {
        component.beat();
        let (begun, now) = (Instant::now(), context.clock.now());
        let counted = bounded(postgres.answer_limit() + postgres.connect_timeout, count(&postgres, now)).await;
        let wait = match counted {
            Ok(counts) => {
                publish(|mode, age| counts[usize::from(mode.is_live())][age]);
                INTERVAL.max(begun.elapsed() * PAUSE_FACTOR)
            }
            Err(error) => {
                tracing::debug!(%error, "open orders cannot be counted: {error}");
                publish(|_, _| f64::NAN);
                RETRY_WAIT
            }
        };
        component.rest(wait, &soft).await;
    }
    Ok(())
}

fn publish(count: impl Fn(Mode, usize) -> f64) {
    for mode in [Mode::Test, Mode::Live] {
        for (number, age) in AGES.into_iter().enumerate() {
            gauge!(INCOMPLETE, "mode" => mode.as_str(), "age" => age).set(count(mode, number));
        }
    }
}

/// The counts by mode (test, live) and age.
async fn count(postgres: &PostgresConfig, now: DateTime<Utc>) -> Result<[[f64; AGES.len()]; 2], Error> {
    let mut connection = postgres.connect_as("orders-watch").await?;
    let rows = sqlx::query!(
        r#"-- orders_incomplete
           SELECT live_mode, width_bucket(extract(epoch FROM $1 - accepted_at)::float8, $2::float8[]) AS "age!",
                  count(*)::float8 AS "orders!"
           FROM orders
           WHERE accepted_at IS NOT NULL AND complete_at IS NULL
             AND status NOT IN ('complete', 'cancelled', 'blocked', 'returned')
           GROUP BY 1, 2"#,
        now,
        &AGE_BOUNDS[..]
    )
    .fetch_all(&mut connection)
    .await?;
    let mut counts = [[0.0; AGES.len()]; 2];
    for row in rows {
        if let Some(count) =
            usize::try_from(row.age).ok().and_then(|age| counts[usize::from(row.live_mode)].get_mut(age))
        {
            *count = row.orders;
        }
    }
    Ok(counts)
}
