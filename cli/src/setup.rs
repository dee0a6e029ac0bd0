//! `riverlock setup`: topics and tables.

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;
use riverlock_ledger::postgres;
use riverlock_runtime::topics;
use sqlx::PgConnection;

use crate::config::Config;

pub(crate) async fn run(file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let config = Config::load_with_kafka(file)?;
    let made = setup(&config).await?;
    println!(
        "setup: {} topics created, {} checked; tables are at this version",
        made,
        topics::names(&config.kafka).len()
    );
    Ok(ExitCode::SUCCESS)
}

/// Creates what is missing, and checks what is there. Returns how many topics were created.
pub(crate) async fn setup(config: &Config) -> anyhow::Result<usize> {
    let created = topics::create(&config.kafka).await?;
    topics::check(&config.kafka).await?;
    let mut connection = config.postgres.connect().await.context("PostgreSQL does not take a connection")?;
    nobody_else(&mut connection).await?;
    postgres::migrate(&mut connection).await.context("the tables could not be brought to this version")?;
    Ok(created.len())
}

/// Refuses to change tables under services of another version: what those write they write as they knew the tables, and a
/// message could be lost or an event be taken for one that the database refuses.
async fn nobody_else(connection: &mut PgConnection) -> anyhow::Result<()> {
    if postgres::migrations_missing(connection).await? == 0 {
        return Ok(());
    }
    let others = postgres::other_connections(connection).await?;
    anyhow::ensure!(
        others == 0,
        "the tables must be changed for this version, and {others} connections of running services or commands are open: \
         end every processor and invoice-fetcher first (ingest needs no database and goes on)"
    );
    Ok(())
}
