//! Reports of `riverlock reconcile` as text.

use std::fmt::{self, Write as _};

use riverlock_reconcile::{Report, objects::ObjectsReport, report::NAMED_MAX};
use riverlock_schemas::time::rfc3339;

use crate::terminal::{
    table::{Column, Layout, Table},
    text::count,
};

/// Orders and objects that the text lists; JSON has more.
const PRINTED_MAX: usize = 20;

/// Writes the report about orders or documents.
pub(super) fn objects(text: &mut String, report: &ObjectsReport) -> fmt::Result {
    const COLUMNS: [Column; 2] = [Column::text("KIND"), Column::text("ID")];
    let ObjectsReport { mode, what, listed, missing, objects, .. } = report;
    writeln!(text, "{mode} data from {} to {}", rfc3339(report.from), rfc3339(report.to))?;
    writeln!(text, "{listed} {what} listed, {missing} not stored")?;
    let mut table = Table::new(&COLUMNS);
    for object in objects.iter().take(PRINTED_MAX) {
        table.row([object.kind.to_string(), object.id.clone()]);
    }
    table.section(text, "missing", Layout::of_sections());
    if objects.len() > PRINTED_MAX {
        writeln!(text, "  and more; --json lists up to {NAMED_MAX}")?;
    }
    Ok(())
}

/// Writes the report about events.
pub(super) fn events(text: &mut String, report: &Report) -> fmt::Result {
    let period = format!("{} to {}", rfc3339(report.from), rfc3339(report.to));
    writeln!(text, "{} data from {period}: {}", report.mode, report.types.join(", "))?;
    if let Some(run) = report.resumed {
        writeln!(text, "continued interrupted run {run}")?;
    }
    let Report { listed, missing, written, unusable, .. } = report;
    writeln!(text, "{} listed, {missing} never delivered, {written} written", count(*listed, "event"))?;
    if *unusable > 0 {
        writeln!(text, "{} skipped: not an event, or of the other mode", count(*unusable, "listed element"))?;
    }
    counts("TYPE", report.by_type.iter().map(|(name, number)| (name.clone(), *number))).section(
        text,
        "by type",
        Layout::of_sections(),
    );
    counts("HOUR", report.by_hour.iter().map(|(hour, number)| (rfc3339(*hour), *number))).section(
        text,
        "by hour",
        Layout::of_sections(),
    );
    let orders = report.by_order.iter().take(PRINTED_MAX);
    counts("ORDER", orders.map(|(order, number)| (order.clone(), *number))).section(
        text,
        "by order",
        Layout::of_sections(),
    );
    if report.by_order.len() > PRINTED_MAX {
        writeln!(text, "  and more orders; --json lists up to {NAMED_MAX}")?;
    }
    if missing > written {
        writeln!(text, "nothing was written; write the missing events to the raw topics with --apply")?;
    }
    Ok(())
}

/// A table of numbers of missing events.
fn counts(heading: &'static str, numbers: impl Iterator<Item = (String, u64)>) -> Table {
    let mut table = Table::new(&[Column::text(heading), Column::number("EVENTS")]);
    numbers.for_each(|(name, number)| table.row([name, number.to_string()]));
    table
}
