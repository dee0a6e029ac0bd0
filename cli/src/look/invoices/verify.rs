//! `riverlock invoices verify`: is every stored document in the archive as it was stored?

use std::{io::IsTerminal as _, process::ExitCode};

use riverlock_invoice_fetcher::{
    Archive,
    archive::verify::{self, Kind, Selection, Totals, VerifyFinding},
    queue::retry::Request,
};
use riverlock_schemas::Mode;
use serde::Serialize;

use super::Desk;
use crate::{
    config::Config,
    exit::{self, Usage},
    look::invoices::args::VerifyOptions,
    terminal::{out, progress as bar},
};

/// The last line of JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    #[serde(flatten)]
    totals: Totals,
    is_well: bool,
    applied: bool,
}

pub(super) async fn run(config: &Config, desk: &mut Desk, options: VerifyOptions) -> anyhow::Result<ExitCode> {
    let output = options.output;
    let selection = Selection {
        file_id: options.file_id,
        order_id: options.order,
        mode: options.mode.map(Mode::from),
        after: options.after,
        limit: options.limit,
        size_only: options.size_only,
    };
    let by = options.by.name()?;
    if options.reason.trim().is_empty() {
        return Err(Usage("--reason is empty".to_owned()).into());
    }
    let request = options.apply.then_some(Request { by, reason: options.reason });
    let archive = Archive::open(&config.invoice_fetcher)?;
    let bar = bar::new("documents")?;
    if std::io::stderr().is_terminal() {
        bar.set_length(verify::count(&mut desk.connection, &selection, desk.limit).await?);
    }
    let mut failed = None;
    let mut observe = |finding: Option<&VerifyFinding>| {
        bar.inc(1);
        if let Some(finding) = finding {
            let printed = bar.suspend(|| output.each(finding, || line(finding)));
            failed = printed.err().or_else(|| failed.take());
        }
    };
    let connection = &mut desk.connection;
    let result = verify::run(connection, &archive, &selection, request.as_ref(), desk.limit, &mut observe).await;
    bar.finish_and_clear();
    let totals = result?;
    if let Some(error) = failed {
        return Err(error);
    }
    let summary = Summary { totals, is_well: totals.is_well(), applied: options.apply };
    output.each(&summary, || told(&totals, options.requeue, options.apply, options.size_only))?;
    if let Some(last) = totals.last.filter(|_| options.limit.is_some_and(|limit| totals.checked >= limit)) {
        output.people(&format!("there may be more: --after {last} goes on"));
    }
    if totals.checked > 0 && totals.lost == totals.checked {
        out::note("none of them is in the archive: is invoice_fetcher.store the right one, and is it mounted?");
    }
    Ok(match totals {
        Totals { lost: 0, changed: 0, unreadable: 1.., .. } => ExitCode::from(exit::UNKNOWN),
        totals => exit::well_if(totals.is_well()),
    })
}

fn line(finding: &VerifyFinding) -> String {
    let VerifyFinding { file_id, order_id, object_key, kind, detail, .. } = finding;
    let requeued = if finding.requeued { "; it is fetched again" } else { "" };
    let mode = Mode::from_live(finding.live_mode);
    format!(
        "{file_id}  order {} ({mode})  {object_key}  {}: {detail}{requeued}",
        order_id.escape_debug(),
        kind.as_str()
    )
}

fn told(totals: &Totals, requeue: bool, apply: bool, size_only: bool) -> String {
    let Totals { checked, lost, changed, unreadable, requeued, .. } = totals;
    let how = if size_only { "looked at, without reading them" } else { "read and hashed" };
    let mut text = format!("{checked} documents {how}: {lost} lost, {changed} changed");
    if *unreadable > 0 {
        text.push_str(&format!(", {unreadable} {}", Kind::Unreadable.as_str()));
    }
    match (lost + changed, requeue, apply) {
        (0, ..) => {}
        (_, _, true) => text.push_str(&format!("; {requeued} are fetched again")),
        (wrong, true, false) => text.push_str(&format!("; {wrong} would be fetched again, --apply does it")),
        (_, false, false) => text.push_str("; --requeue --apply fetches them again"),
    }
    text
}
