//! Sizes of the tables and of the database, as metrics: what grows must be seen before a disk is full.

use std::{convert::Infallible, time::Duration};

use metrics::gauge;
use riverlock_ledger::{Error, PostgresConfig, postgres::bounded};
use riverlock_runtime::Context;

use crate::metrics as names;

/// Time between two measurements. One takes milliseconds, and sizes change slowly.
const INTERVAL: Duration = Duration::from_secs(60);
/// Wait after an error.
const RETRY_WAIT: Duration = Duration::from_secs(5);
/// Time without a heartbeat after which the process counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(300);

/// Updates the metrics until the shutdown. Errors are logged and retried; it never returns an error.
pub async fn run(postgres: PostgresConfig, context: Context) -> Result<(), Infallible> {
    names::describe_sizes();
    let soft = context.shutdown.soft().clone();
    let component = context.health.register_beating("sizes", STUCK_AFTER);
    // Orders are computed without sizes too, so a failed measurement never makes the process unready.
    component.ready();
    while !soft.is_cancelled() {
        component.beat();
        let wait = match bounded(postgres.answer_limit() + postgres.connect_timeout, measure(&postgres)).await {
            Ok(()) => INTERVAL,
            Err(error) => {
                tracing::debug!(%error, "the tables cannot be measured: {error}");
                RETRY_WAIT
            }
        };
        component.rest(wait, &soft).await;
    }
    Ok(())
}

/// Measures once, with a connection of its own: one every minute costs less than one that is kept.
async fn measure(postgres: &PostgresConfig) -> Result<(), Error> {
    let mut connection = postgres.connect_as("sizes").await?;
    let tables = sqlx::query!(
        r#"-- table_sizes
           SELECT coalesce(root.relname, c.relname)::text AS "name!", sum(pg_total_relation_size(c.oid))::float8 AS "bytes!"
           FROM pg_class c LEFT JOIN pg_class root ON root.oid = pg_partition_root(c.oid)
           WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')
           GROUP BY 1"#
    )
    .fetch_all(&mut connection)
    .await?;
    for table in tables {
        gauge!(names::TABLE_BYTES, "table" => table.name).set(table.bytes);
    }
    let database = sqlx::query_scalar!(
        r#"-- database_size
           SELECT pg_database_size(current_database())::float8 AS "bytes!""#
    )
    .fetch_one(&mut connection)
    .await?;
    gauge!(names::DATABASE_BYTES).set(database);
    Ok(())
}
