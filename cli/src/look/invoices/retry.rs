//! `riverlock invoices retry` and `queue-ignored`.

use std::{fmt::Write as _, process::ExitCode};

use riverlock_invoice_fetcher::{
    InvoiceQueue,
    queue::{
        ignored,
        retry::{self, Request, RetryResult, Run},
    },
};
use riverlock_ledger::postgres::bounded;
use serde::Serialize;

use super::{
    args::{DocumentState, RetryOptions},
    database::{Database, filter},
};
use crate::{
    config::Config,
    exit,
    options::{change::ChangeOptions, operator::Reason},
    terminal::{
        table::{Column, Layout, Table},
        text::count,
    },
};

/// The result of `retry`, or of its dry run.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RetryReport {
    applied: bool,
    documents: Vec<RetryResult>,
    /// Why the named document is not among them.
    #[serde(rename = "passedOver", skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
}

fn run_kind(apply: bool, reason: Reason) -> anyhow::Result<(Run, String)> {
    Ok((if apply { Run::Apply } else { Run::Dry }, reason.of_run(apply)?))
}

pub(super) async fn run(database: &mut Database, options: RetryOptions) -> anyhow::Result<ExitCode> {
    let RetryOptions { file_id, state, filter: which, reason, operator, limit, apply, output } = options;
    let filter = filter(file_id, state.map(DocumentState::from), which);
    let (run, reason) = run_kind(apply, reason)?;
    let request = Request { by: operator.name()?, reason };
    let documents =
        bounded(database.limit, retry::run(&mut database.connection, &filter, limit, &request, run)).await?;
    let skipped = match file_id.filter(|_| documents.is_empty()) {
        Some(file_id) => {
            let document = database.document(file_id).await?;
            Some(format!(
                "skipped: the document is stored, is being downloaded, or does not match the filters ({document})"
            ))
        }
        None => None,
    };
    let report = RetryReport { applied: apply, documents, skipped };
    output.whole(&report, |text| report.write(text, limit))?;
    Ok(exit::success_if(report.skipped.is_none()))
}

impl RetryReport {
    fn write(&self, text: &mut String, limit: i64) -> std::fmt::Result {
        const COLUMNS: [Column; 5] = [
            Column::text("DOCUMENT"),
            Column::text("ORDER"),
            Column::text("STATE"),
            Column::number("ATTEMPTS"),
            Column::text("ERROR"),
        ];
        let mut table = Table::new(&COLUMNS);
        for document in &self.documents {
            table.row([
                document.file_id.to_string(),
                document.order_id.clone(),
                document.state.clone(),
                document.attempts.to_string(),
                document.last_error.as_deref().unwrap_or("never attempted").to_owned(),
            ]);
        }
        text.push_str(&table.render(Layout::of_lists(), ""));
        let documents = count(self.documents.len(), "document");
        match self.applied {
            true => writeln!(text, "{documents} will be retried now")?,
            false => writeln!(text, "{documents} would be retried; apply with --apply --reason TEXT")?,
        }
        if i64::try_from(self.documents.len()).is_ok_and(|documents| documents >= limit) {
            writeln!(text, "more may match; raise --limit to include them")?;
        }
        self.skipped.as_ref().map_or(Ok(()), |reason| writeln!(text, "{reason}"))
    }
}

pub(super) async fn queue_ignored(
    config: &Config,
    database: &mut Database,
    options: ChangeOptions,
) -> anyhow::Result<ExitCode> {
    let ChangeOptions { reason, operator, apply, output } = options;
    let (run, reason) = run_kind(apply, reason)?;
    let request = Request { by: operator.name()?, reason };
    let projection = InvoiceQueue::new(&config.invoice_fetcher);
    let connection = &mut database.connection;
    let totals = ignored::run(connection, &config.kafka, &projection, &request, run, database.limit).await?;
    output.whole(&totals, |text| {
        let ignored::Totals { ignored, queued, gone, unusable } = totals;
        writeln!(text, "{} ignored because their mode had no account", count(ignored, "event"))?;
        match apply {
            true => writeln!(text, "{} queued", count(queued, "event"))?,
            false => writeln!(text, "{} would be queued; apply with --apply --reason TEXT", count(queued, "event"))?,
        }
        if gone + unusable > 0 {
            writeln!(text, "{gone} no longer in Kafka, {unusable} without a document that could be downloaded")?;
        }
        Ok(())
    })?;
    Ok(exit::success_if(totals.gone + totals.unusable == 0))
}
