//! `riverlock audit`: nothing lost, nothing invented.

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;
use riverlock_ledger::audit;

use crate::config::Config;

pub(crate) async fn run(file: Option<&Path>, json: bool) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let mut connection = config.postgres.connect().await.context("PostgreSQL does not take a connection")?;
    let report = audit::run(&config.kafka, &mut connection, &config.consumers()).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
        for finding in &report.findings {
            println!("  {finding}");
        }
        let unlisted = report.wrong.saturating_sub(report.findings.len() as u64);
        if unlisted > 0 && !report.findings.is_empty() {
            println!("  and more: {} in all", report.wrong);
        }
        for note in &report.notes {
            println!("  not provable: {note}");
        }
        if report.earlier > 0 {
            println!("  {} rows belong to earlier Kafka clusters: stored, not provable from this one", report.earlier);
        }
    }
    Ok(if report.balances() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
