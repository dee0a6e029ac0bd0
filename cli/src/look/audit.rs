//! `riverlock audit`: every record in Kafka compared with its outcome in PostgreSQL.

use std::{fmt::Write as _, path::Path, process::ExitCode};

use anyhow::Context as _;
use riverlock_recovery::audit;

use crate::{config::Config, exit, terminal::out::Output};

pub(crate) async fn run(file: Option<&Path>, output: Output) -> anyhow::Result<ExitCode> {
    let config = Config::load_with_topics(file).await?;
    let mut connection = config.postgres.connect().await.context("PostgreSQL does not take a connection")?;
    let report = audit::run(&config.kafka, &mut connection, &config.consumers()).await?;
    output.whole(&report, |text| {
        writeln!(text, "{report}")?;
        report.findings.iter().try_for_each(|finding| writeln!(text, "  {finding}"))?;
        let unlisted = report.wrong.saturating_sub(report.findings.len() as u64);
        if unlisted > 0 && !report.findings.is_empty() {
            writeln!(text, "  and {unlisted} more")?;
        }
        for note in &report.notes {
            writeln!(text, "  not verifiable: {note}")?;
        }
        if report.earlier > 0 {
            let earlier = report.earlier;
            writeln!(text, "  not verifiable: {earlier} outcomes of records in earlier Kafka clusters")?;
        }
        Ok(())
    })?;
    Ok(exit::success_if(report.balances()))
}
