//! Orders as text.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use riverlock_invoice_fetcher::queue::view::InvoiceView;
use riverlock_ledger::view::{EventView, MessageView};
use riverlock_processor::store::{LineView, OperationView, OrderSummary, OrderView, ShipmentView};
use riverlock_schemas::time::rfc3339;
use serde::Serialize;

use crate::{
    look::summary::{Summary, headline, salesforce},
    terminal::{
        table::{Column, Layout, Table},
        text::{MISSING, fields, optional, optional_time, or_missing, printable},
    },
};

/// The columns of `orders list`.
pub(super) const COLUMNS: [Column; 7] = [
    Column::text("FIRST SEEN"),
    Column::text("CHANGED"),
    Column::text("ORDER"),
    Column::text("MODE"),
    Column::text("STATUS"),
    Column::number("VERSION"),
    Column::text("CONFLICT"),
];

/// The values of one order in `orders list`.
pub(super) fn values(order: &OrderSummary) -> [String; 7] {
    let conflict = if order.conflicted { "conflict" } else { MISSING };
    [
        rfc3339(order.first_seen_at),
        rfc3339(order.changed_at),
        order.order_id.clone(),
        order.mode.to_string(),
        order.status.clone(),
        order.version.to_string(),
        conflict.to_owned(),
    ]
}

/// All that is stored under an order id: the live order, the test order or both.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OrderReport {
    pub(super) orders: Vec<OrderView>,
    pub(super) events: Vec<EventView>,
    pub(super) messages: Vec<MessageView>,
    pub(super) invoices: Vec<InvoiceView>,
}

impl OrderReport {
    /// Whether anything is stored under the id.
    pub(super) fn is_known(&self) -> bool {
        !(self.orders.is_empty() && self.events.is_empty() && self.invoices.is_empty())
    }

    /// Why there is no order although something is stored under its id.
    fn why_no_order(&self) -> &'static str {
        match self.events.iter().any(|event| event.outcome == "dead") {
            true => "NO EVENT COULD BE APPLIED",
            false => "NO EVENT OF THE ORDER ITSELF",
        }
    }

    /// Writes the report: the status, problems and open work first, then the details.
    pub(super) fn write(&self, text: &mut String, order_id: &str, layout: Layout) {
        let id = printable(order_id);
        if !self.is_known() {
            text.push_str(&format!("nothing is known about order {id}\n"));
            return;
        }
        match self.orders.as_slice() {
            [] => text.push_str(&format!("order {id}: {}\n", self.why_no_order())),
            orders => orders.iter().for_each(|order| text.push_str(&format!("{}\n", headline(order)))),
        }
        let mut summary = Summary::default();
        self.orders.iter().for_each(|order| summary.order(order));
        summary.events(self.events.iter());
        summary.messages(self.messages.iter());
        summary.documents(self.invoices.iter());
        let mut lines: Vec<(&str, String)> = summary.lines();
        if let [order] = self.orders.as_slice() {
            lines.extend(details(order));
        }
        fields(text, "  ", &lines);
        if self.orders.len() > 1 {
            for order in &self.orders {
                text.push_str(&format!("\n{} data\n", order.mode));
                fields(text, "  ", &details(order));
            }
        }
        for order in &self.orders {
            line_table(&order.lines).section(text, "lines", layout);
            shipments(&order.shipments).section(text, "shipments", layout);
            operations(&order.operations).section(text, "charges", layout);
        }
        events(&self.events).section(text, "events", layout);
        messages(&self.messages).section(text, "messages", layout);
        documents(&self.invoices).section(text, "documents", layout);
    }
}

/// What is not in tables: the last change, the seen events, and the states that Digital River reported.
fn details(order: &OrderView) -> Vec<(&str, String)> {
    let mut lines = vec![
        ("changed", format!("{}, version {}", rfc3339(order.changed_at), order.version)),
        ("events seen", order.seen.join(", ")),
        ("Salesforce", salesforce(order)),
    ];
    lines.extend(transitions(&order.transitions));
    lines
}

/// The states that Digital River reported, with the earliest time of each, in the order of time.
fn transitions(transitions: &BTreeMap<String, DateTime<Utc>>) -> Vec<(&str, String)> {
    let mut transitions: Vec<_> = transitions.iter().collect();
    transitions.sort_by_key(|(_, time)| **time);
    transitions.into_iter().map(|(state, time)| (state.as_str(), rfc3339(*time))).collect()
}

fn line_table(lines: &[LineView]) -> Table {
    const COLUMNS: [Column; 7] = [
        Column::text("LINE"),
        Column::number("QUANTITY"),
        Column::text("SKU"),
        Column::text("KIND"),
        Column::text("STATE"),
        Column::number("FULFILLED"),
        Column::number("CANCELLED"),
    ];
    let mut table = Table::new(&COLUMNS);
    for line in lines {
        let kind = line.physical.map_or(MISSING, |physical| if physical { "physical" } else { "digital" });
        table.row([
            line.line_id.clone(),
            line.quantity.map_or_else(|| MISSING.to_owned(), |quantity| quantity.to_string()),
            optional(line.sku_id.as_deref()),
            kind.to_owned(),
            optional(line.state.as_deref()),
            line.fulfilled_quantity.to_string(),
            line.cancelled_quantity.to_string(),
        ]);
    }
    table
}

fn shipments(shipments: &[ShipmentView]) -> Table {
    const COLUMNS: [Column; 6] = [
        Column::text("FULFILLMENT"),
        Column::text("CREATED"),
        Column::text("CARRIER"),
        Column::text("TRACKING NUMBER"),
        Column::text("LINE"),
        Column::text("QUANTITIES"),
    ];
    let mut table = Table::new(&COLUMNS);
    for shipment in shipments {
        let mut rows = shipment.lines.iter().map(|line| {
            let quantities = format!("{} fulfilled, {} cancelled", line.fulfilled_quantity, line.cancelled_quantity);
            (line.line_id.clone(), quantities)
        });
        let (line, quantities) = rows.next().unwrap_or_else(|| (MISSING.to_owned(), MISSING.to_owned()));
        table.row([
            shipment.fulfillment_id.clone(),
            optional_time(shipment.created_at),
            optional(shipment.tracking_company.as_deref()),
            optional(shipment.tracking_number.as_deref()),
            line,
            quantities,
        ]);
        // Only the first line of a shipment repeats what all have in common.
        rows.for_each(|(line, quantities)| {
            table.row([String::new(), String::new(), String::new(), String::new(), line, quantities]);
        });
    }
    table
}

fn operations(operations: &[OperationView]) -> Table {
    const COLUMNS: [Column; 5] = [
        Column::text("KIND"),
        Column::text("ID"),
        Column::number("AMOUNT"),
        Column::text("STATE"),
        Column::text("FAILURE"),
    ];
    let mut table = Table::new(&COLUMNS);
    for operation in operations {
        let id = if operation.operation_id.is_empty() { &operation.charge_id } else { &operation.operation_id };
        let amount = operation.amount.map_or_else(
            || MISSING.to_owned(),
            |amount| format!("{amount} {}", operation.currency.as_deref().unwrap_or_default()),
        );
        let times =
            [("pending", operation.pending_at), ("complete", operation.complete_at), ("failed", operation.failed_at)];
        let states = times.iter().filter_map(|(state, time)| Some(format!("{state} {}", rfc3339((*time)?))));
        table.row([
            operation.kind.to_owned(),
            or_missing(id),
            amount.trim_end().to_owned(),
            or_missing(&states.collect::<Vec<_>>().join(", ")),
            optional(operation.failure_code.as_deref()),
        ]);
    }
    table
}

fn events(events: &[EventView]) -> Table {
    const COLUMNS: [Column; 6] = [
        Column::text("RECEIVED"),
        Column::text("TYPE"),
        Column::text("OUTCOME"),
        Column::text("REASON"),
        Column::text("EVENT"),
        Column::text("RECORD"),
    ];
    let mut table = Table::new(&COLUMNS);
    for event in events {
        table.row([
            rfc3339(event.received_at),
            event.event_type.clone(),
            event.outcome.clone(),
            optional(event.reason.as_deref()),
            event.event_id.clone(),
            event.position().to_string(),
        ]);
    }
    table
}

fn messages(messages: &[MessageView]) -> Table {
    const COLUMNS: [Column; 3] = [Column::text("WRITTEN"), Column::text("TYPE"), Column::text("STATE")];
    let mut table = Table::new(&COLUMNS);
    for message in messages {
        let state = if message.published { "published" } else { "not published" };
        table.row([rfc3339(message.created_at), message.kind.clone(), state.to_owned()]);
    }
    table
}

fn documents(documents: &[InvoiceView]) -> Table {
    const COLUMNS: [Column; 5] = [
        Column::text("DOCUMENT"),
        Column::text("PURPOSE"),
        Column::text("STATE"),
        Column::number("BYTES"),
        Column::text("NEXT ATTEMPT"),
    ];
    let mut table = Table::new(&COLUMNS);
    for document in documents {
        table.row([
            document.file_id.to_string(),
            document.purpose.clone(),
            document.state.clone(),
            document.size_bytes.map_or_else(|| MISSING.to_owned(), |bytes| bytes.to_string()),
            optional_time(document.next_attempt_at),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use riverlock_processor::domain::EfnStatus;
    use riverlock_schemas::Mode;

    use super::*;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn line() -> LineView {
        LineView {
            line_id: "257015330336".to_owned(),
            sku_id: Some("sku-1".to_owned()),
            quantity: Some(2),
            fulfilled_quantity: 2,
            cancelled_quantity: 0,
            physical: Some(true),
            state: Some("fulfilled".to_owned()),
            created_at: None,
            fulfilled_at: None,
            cancelled_at: None,
            returned_at: None,
        }
    }

    fn order() -> OrderView {
        OrderView {
            order_id: "924469841958".to_owned(),
            mode: Mode::Test,
            status: "fulfilled".to_owned(),
            version: 3,
            transitions: [("accepted", "2026-01-05T08:00:29.334714Z"), ("fulfilled", "2026-01-05T08:32:32Z")]
                .map(|(state, at)| (state.to_owned(), time(at)))
                .into(),
            seen: vec!["order.accepted".to_owned(), "order.fulfilled".to_owned()],
            ofi_received: true,
            efn_status: EfnStatus::Completed,
            ocn_received: false,
            anomalies: vec!["conflict"],
            details: serde_json::Value::Null,
            first_seen_at: time("2026-01-05T08:00:30Z"),
            changed_at: time("2026-01-05T08:32:33Z"),
            lines: vec![line()],
            shipments: Vec::new(),
            operations: Vec::new(),
        }
    }

    fn report() -> OrderReport {
        let event = EventView {
            event_id: "e-1".to_owned(),
            event_type: "order.accepted".to_owned(),
            live_mode: Some(false),
            order_id: Some("924469841958".to_owned()),
            created_at: None,
            received_at: time("2026-01-05T08:00:30.1Z"),
            recorded_at: time("2026-01-05T08:00:30.2Z"),
            topic: "riverlock.raw.orders".to_owned(),
            partition: 2,
            offset: 7,
            body_sha256: String::new(),
            outcome: "applied".to_owned(),
            reason: None,
        };
        let message = MessageView {
            kind: "fulfillment.requested".to_owned(),
            effect_key: String::new(),
            live_mode: false,
            created_at: time("2026-01-05T08:00:30.2Z"),
            published: false,
        };
        OrderReport { orders: vec![order()], events: vec![event], messages: vec![message], invoices: Vec::new() }
    }

    #[test]
    fn a_report_begins_with_the_status_the_problems_and_what_is_open() {
        let mut text = String::new();
        report().write(&mut text, "924469841958", Layout::Table { width: None });
        assert_eq!(
            text,
            "\
order 924469841958 (test): FULFILLED
  problems     anomalies: conflict
  open         1 message not published
  changed      2026-01-05T08:32:33.000Z, version 3
  events seen  order.accepted, order.fulfilled
  Salesforce   OFI received: yes, EFN status: completed, OCN received: no
  accepted     2026-01-05T08:00:29.334Z
  fulfilled    2026-01-05T08:32:32.000Z

lines
  LINE          QUANTITY  SKU    KIND      STATE      FULFILLED  CANCELLED
  257015330336         2  sku-1  physical  fulfilled          2          0

events
  RECEIVED                  TYPE            OUTCOME  REASON  EVENT  RECORD
  2026-01-05T08:00:30.100Z  order.accepted  applied  -       e-1    riverlock.raw.orders[2]@7

messages
  WRITTEN                   TYPE                   STATE
  2026-01-05T08:00:30.200Z  fulfillment.requested  not published
"
        );
    }

    #[test]
    fn an_order_whose_events_are_all_dead_letters_is_not_called_unknown() {
        let mut dead = OrderReport { orders: Vec::new(), messages: Vec::new(), ..report() };
        dead.events.iter_mut().for_each(|event| event.outcome = "dead".to_owned());
        let mut text = String::new();
        dead.write(&mut text, "924469841958", Layout::Table { width: None });
        assert!(text.starts_with("order 924469841958: NO EVENT COULD BE APPLIED\n"), "{text}");
        dead.events.clear();
        assert_eq!(dead.why_no_order(), "NO EVENT OF THE ORDER ITSELF");
    }

    #[test]
    fn a_report_fits_a_narrow_terminal() {
        let mut text = String::new();
        report().write(&mut text, "924469841958", Layout::Table { width: Some(80) });
        let tables = text.split_once("\nlines\n").unwrap().1;
        assert!(tables.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
