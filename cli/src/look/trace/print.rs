//! A trace as text. Texts from outside are escaped.

use std::fmt::Write as _;

use riverlock_ledger::view::MessageView;
use riverlock_schemas::time::rfc3339;

use super::{
    model::{RecordTrace, Trace},
    receipt::Receipt,
};
use crate::{
    look::summary::{Summary, headline, salesforce},
    terminal::text::{count, fields, printable},
};

/// The prefix of a change of a line.
const LINE: &str = "line ";

/// Writes the whole trace: the status, problems and open work first, then the records.
pub(super) fn write(text: &mut String, trace: &Trace) {
    let id = printable(&trace.id);
    match trace.known_as[..] {
        [] => {
            text.push_str(&format!(
                "nothing is known about {id}: no event has this id, and no event is about an order with this id\n"
            ));
            return;
        }
        [_, _, ..] => {
            text.push_str(&format!(
                "{id} is the id of an event and of an order; --as event or --as order selects one\n"
            ));
        }
        ["order"] if !trace.orders.is_empty() => {}
        [known_as] => text.push_str(&format!("{known_as} {id}\n")),
    }
    trace.orders.iter().for_each(|order| text.push_str(&format!("{}\n", headline(order))));
    let summary = summary(trace);
    let mut lines = summary.lines();
    lines.extend(trace.orders.iter().map(|order| ("Salesforce", salesforce(order))));
    fields(text, "  ", &lines);
    for record in &trace.records {
        text.push('\n');
        write_record(text, record);
    }
    if !trace.other_messages.is_empty() {
        text.push_str("\nmessages without a known cause\n");
        fields(text, "  ", &trace.other_messages.iter().map(message).collect::<Vec<_>>());
    }
}

fn summary(trace: &Trace) -> Summary {
    let mut summary = Summary::default();
    let receipts = || trace.records.iter().map(|record| &record.receipt);
    let changed = receipts().filter(|receipt| receipt.as_audited == Some(false)).count();
    summary.problem(changed, "record", "CHANGED since it was recorded: the body has another SHA-256");
    let invalid = receipts().filter(|receipt| receipt.is_signature_invalid()).count();
    summary.problem(invalid, "record", "with an INVALID signature");
    trace.orders.iter().for_each(|order| summary.order(order));
    summary.events(trace.records.iter().map(|record| &record.event));
    let gone = receipts().filter(|receipt| receipt.state == "gone").count();
    summary.open(gone, "record", "no longer in Kafka, and not verified");
    let unreadable = receipts().filter(|receipt| receipt.state == "unreadable").count();
    summary.open(unreadable, "record", "not read, and not verified");
    summary.open(usize::from(trace.truncated), "limit", "reached: there are more records, and changes are not shown");
    let messages = trace.records.iter().flat_map(|record| &record.messages).chain(&trace.other_messages);
    summary.messages(messages);
    summary.documents(trace.records.iter().flat_map(|record| &record.invoices));
    summary
}

fn write_record(text: &mut String, record: &RecordTrace) {
    let event = &record.event;
    let mode = event.live_mode.map_or("", |live| if live { " (live)" } else { " (test)" });
    let reason = event.reason.as_deref().map(|reason| format!(" ({})", printable(reason))).unwrap_or_default();
    let outcome = match event.outcome.as_str() {
        loud @ ("conflict" | "dead") => loud.to_uppercase(),
        outcome => outcome.to_owned(),
    };
    let _ = writeln!(text, "{}{mode}: {outcome}{reason}", printable(&event.event_type));
    let mut lines = vec![("event", printable(&event.event_id))];
    lines.extend(event.order_id.as_deref().map(|order_id| ("order", printable(order_id))));
    lines.extend(event.created_at.map(|created_at| ("created", rfc3339(created_at))));
    lines.push(("record", format!("{}, stored by Kafka {}", event.position(), rfc3339(event.received_at))));
    receipt_lines(&mut lines, &record.receipt, &event.body_sha256);
    lines.push(("processed", rfc3339(event.recorded_at)));
    if event.outcome == "conflict" {
        lines.push((
            "conflict",
            "an earlier record of this event has a contradicting body; both are applied".to_owned(),
        ));
    }
    for (name, value) in record.dead_letter.iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        lines.push(("dead", format!("{}: {}", name.replace('_', " "), printable(&value))));
    }
    if let Some(step) = &record.transition {
        let after = step.status_after;
        lines.push(match step.status_before {
            Some(before) if before == after => ("status", format!("{after}, unchanged")),
            Some(before) => ("status", format!("{before} -> {after}")),
            None => ("status", format!("{after}, the order's first event")),
        });
        let changes = grouped(&step.changes);
        let changes = if changes.is_empty() { vec!["nothing new".to_owned()] } else { changes };
        lines.extend(changes.into_iter().map(|change| ("changed", printable(&change))));
        let caused = |effect: &riverlock_processor::history::CausedEffect| {
            format!("{} {}", effect.kind, printable(&effect.effect_key))
        };
        lines.extend(step.effects.iter().map(|effect| ("caused", caused(effect).trim_end().to_owned())));
    }
    lines.extend(record.messages.iter().map(message));
    lines.extend(record.invoices.iter().map(|invoice| ("document", printable(&invoice.to_string()))));
    fields(text, "  ", &without_repeated_names(lines));
}

/// Changes with those of several lines in one, and equal ones counted.
fn grouped(changes: &[String]) -> Vec<String> {
    // The change without the id of its line, whether it is one of a line, its number, and its first full text.
    let mut groups: Vec<(&str, bool, u64, &str)> = Vec::new();
    for change in changes {
        let of_line = change.strip_prefix(LINE).and_then(|rest| rest.split_once(": ")).map(|(_, what)| what);
        let (what, is_line) = of_line.map_or((change.as_str(), false), |what| (what, true));
        match groups.iter_mut().find(|(known, line, ..)| *known == what && *line == is_line) {
            Some((_, _, number, _)) => *number += 1,
            None => groups.push((what, is_line, 1, change)),
        }
    }
    let text = |(what, is_line, number, first): (&str, bool, u64, &str)| match (number, is_line) {
        (1, _) => first.to_owned(),
        (_, true) => format!("{}: {what}", count(number, "line")),
        (_, false) => format!("{what} ({number} times)"),
    };
    groups.into_iter().map(text).collect()
}

/// Leaves out a name that is the same as on the line above.
fn without_repeated_names(lines: Vec<(&str, String)>) -> Vec<(&str, String)> {
    let mut last = "";
    let mut shorten = |name| if std::mem::replace(&mut last, name) == name { "" } else { name };
    lines.into_iter().map(|(name, value)| (shorten(name), value)).collect()
}

fn receipt_lines(lines: &mut Vec<(&'static str, String)>, receipt: &Receipt, recorded_sha256: &str) {
    if let Some(reason) = &receipt.reason {
        let what = match receipt.state {
            "gone" => "the record is no longer in Kafka",
            _ => "the record could not be read",
        };
        lines.push(("receipt", format!("{what}: {}", printable(reason))));
        lines.push(("body", format!("SHA-256 {recorded_sha256} as recorded")));
        return;
    }
    let shown = |value: &Option<String>| printable(value.as_deref().unwrap_or("unknown"));
    let time = receipt.received_at.as_deref().and_then(riverlock_schemas::time::parse_time).map(rfc3339);
    lines.push((
        "receipt",
        format!(
            "{}, endpoint {}, origin {}, secret {}",
            time.unwrap_or_else(|| shown(&receipt.received_at)),
            shown(&receipt.endpoint),
            shown(&receipt.origin),
            shown(&receipt.secret_id)
        ),
    ));
    lines.extend(receipt.verdict.as_deref().map(|verdict| ("signature", printable(verdict))));
    if let (Some(bytes), Some(sha256)) = (receipt.body_bytes, receipt.body_sha256) {
        let comparison = match receipt.as_audited {
            Some(false) => format!("BUT {recorded_sha256} WAS RECORDED"),
            _ => "as recorded".to_owned(),
        };
        lines.push(("body", format!("{bytes} bytes, SHA-256 {sha256}, {comparison}")));
    }
}

fn message(message: &MessageView) -> (&'static str, String) {
    let published = if message.published { "published" } else { "not published" };
    ("message", format!("{}, written {}, {published}", printable(&message.kind), rfc3339(message.created_at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_that_repeat_become_one_with_a_count() {
        let changes = ["order.complete received", "line 1: details changed", "line 2: details changed", "line 3: new"];
        let changes: Vec<String> =
            [&changes[..], &["other facts", "other facts"]].concat().into_iter().map(str::to_owned).collect();
        assert_eq!(
            grouped(&changes),
            ["order.complete received", "2 lines: details changed", "line 3: new", "other facts (2 times)"]
        );
    }

    #[test]
    fn a_name_is_printed_once_for_lines_that_follow_each_other() {
        let lines = [("changed", "a"), ("changed", "b"), ("caused", "c")].map(|(name, value)| (name, value.to_owned()));
        let names: Vec<&str> = without_repeated_names(lines.to_vec()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["changed", "", "caused"]);
    }
}
