//! `riverlock invoices verify`: stored documents compared with the archive.

use std::{io::IsTerminal as _, process::ExitCode};

use riverlock_invoice_fetcher::{
    Archive,
    queue::retry::Request,
    verify::{self, Kind, Selection, Totals, VerifyFinding},
};
use riverlock_schemas::Mode;
use serde::Serialize;

use super::{args::VerifyOptions, database::Database};
use crate::{
    config::Config,
    exit::{self, UsageError},
    terminal::{
        out, progress,
        text::{count, printable},
    },
};

/// The totals, on the last line of JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VerifySummary {
    #[serde(flatten)]
    totals: Totals,
    is_well: bool,
    applied: bool,
}

pub(super) async fn run(config: &Config, database: &mut Database, options: VerifyOptions) -> anyhow::Result<ExitCode> {
    let output = options.output;
    let selection = Selection {
        file_id: options.file_id,
        order_id: options.order,
        mode: options.mode.map(Mode::from),
        after: options.after,
        limit: options.limit,
        size_only: options.size_only,
    };
    let by = options.operator.name()?;
    if options.reason.trim().is_empty() {
        return Err(UsageError("--reason is empty".to_owned()).into());
    }
    let request = options.apply.then_some(Request { by, reason: options.reason });
    let archive = Archive::open(&config.invoice_fetcher)?;
    let bar = progress::counting("documents")?;
    if std::io::stderr().is_terminal() {
        bar.set_length(verify::count(&mut database.connection, &selection, database.limit).await?);
    }
    let mut failed = None;
    let mut observe = |finding: Option<&VerifyFinding>| {
        bar.inc(1);
        if let Some(finding) = finding {
            let printed = bar.suspend(|| output.each(finding, || line(finding)));
            failed = printed.err().or_else(|| failed.take());
        }
    };
    let connection = &mut database.connection;
    let result = verify::run(connection, &archive, &selection, request.as_ref(), database.limit, &mut observe).await;
    bar.finish_and_clear();
    let totals = result?;
    if let Some(error) = failed {
        return Err(error);
    }
    let last_line = VerifySummary { totals, is_well: totals.is_well(), applied: options.apply };
    output.each(&last_line, || summary(&totals, options.requeue, options.apply, options.size_only))?;
    if let Some(last) = totals.last.filter(|_| options.limit.is_some_and(|limit| totals.checked >= limit)) {
        output.text(&format!("more may follow; continue with --after {last}"));
    }
    if totals.checked > 0 && totals.lost == totals.checked {
        out::note("the archive has none of them; check invoice_fetcher.store, and whether it is mounted");
    }
    Ok(match totals {
        Totals { lost: 0, changed: 0, unreadable: 1.., .. } => ExitCode::from(exit::UNAVAILABLE),
        totals => exit::success_if(totals.is_well()),
    })
}

fn line(finding: &VerifyFinding) -> String {
    let VerifyFinding { file_id, order_id, object_key, kind, detail, .. } = finding;
    let requeued = if finding.requeued { "; queued for download" } else { "" };
    let mode = Mode::from_live(finding.live_mode);
    format!(
        "{file_id}  order {} ({mode})  {object_key}  {}: {}{requeued}",
        printable(order_id),
        kind.as_str(),
        printable(detail)
    )
}

fn summary(totals: &Totals, requeue: bool, apply: bool, size_only: bool) -> String {
    let Totals { checked, lost, changed, unreadable, requeued, .. } = totals;
    let how = if size_only { "checked by size" } else { "read and hashed" };
    let mut text = format!("{} {how}: {lost} lost, {changed} changed", count(*checked, "document"));
    if *unreadable > 0 {
        text.push_str(&format!(", {unreadable} {}", Kind::Unreadable.as_str()));
    }
    match (lost + changed, requeue, apply) {
        (0, ..) => {}
        (_, _, true) => text.push_str(&format!("; {requeued} queued for download")),
        (wrong, true, false) => {
            text.push_str(&format!("; {wrong} would be queued for download; apply with --apply --reason TEXT"));
        }
        (_, false, false) => text.push_str("; --requeue --apply queues them for download"),
    }
    text
}
