//! `riverlock trace`: the chain of custody of an event, or of all events of an order.
//!
//! The ledger gives every record with its outcome. Kafka gives the record itself, whose hash is compared with the recorded one
//! and whose signature is verified again with the configured secrets, as of the time of receipt. The order is recomputed from
//! its records, which shows what each event changed and which messages it caused. The trace ends with the state of those
//! messages, of dead letters and of announced documents.

pub mod args;
mod chain;
mod model;
mod print;
mod receipt;

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;

use crate::{config::Config, exit};

use self::args::TraceOptions;

pub(crate) async fn run(file: Option<&Path>, options: &TraceOptions) -> anyhow::Result<ExitCode> {
    let config = Config::load_with_kafka(file)?;
    let mut connection = config.postgres.connect().await.context("PostgreSQL does not take a connection")?;
    let trace = chain::follow(&config, &mut connection, options).await?;
    options.output.whole(&trace, |text| {
        print::write(text, &trace);
        Ok(())
    })?;
    Ok(exit::success_if(!trace.known_as.is_empty() && trace.intact))
}
