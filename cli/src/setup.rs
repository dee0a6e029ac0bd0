//! `riverlock setup`: topics and tables.

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;
use riverlock_ledger::postgres;
use riverlock_runtime::topics;

use crate::config::Config;

pub(crate) async fn run(file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
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
    postgres::migrate(&mut connection).await.context("the tables could not be brought to this version")?;
    Ok(created.len())
}
