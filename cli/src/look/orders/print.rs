//! Orders as text.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use riverlock_invoice_fetcher::queue::view::InvoiceView;
use riverlock_ledger::view::{EventView, MessageView};
use riverlock_processor::store::{LineView, OperationView, OrderSummary, OrderView, ShipmentView};
use riverlock_schemas::time::rfc3339;
use serde::Serialize;

use crate::{
    look::summary::{Summary, headline},
    terminal::{
        table::{Column, Table},
        text::{MISSING, fields, optional, optional_time, or_missing, printable},
    },
};

/// The columns of `orders list`.
pub(super) const COLUMNS: [Column; 6] = [
    Column::text("CHANGED"),
    Column::text("ORDER"),
    Column::text("MODE"),
    Column::text("STATUS"),
    Column::number("VERSION"),
    Column::text("CONFLICT"),
];

/// The values of one order in `orders list`.
pub(super) fn values(order: &OrderSummary) -> [String; 6] {
    let conflict = if order.conflicted { "conflict" } else { MISSING };
    [
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

    /// Writes the report: the status, problems and open work first, then the details.
    pub(super) fn write(&self, text: &mut String, order_id: &str) {
        let id = printable(order_id);
        if !self.is_known() {
            text.push_str(&format!("nothing is known of order {id}\n"));
            return;
        }
        match self.orders.as_slice() {
            [] => text.push_str(&format!("order {id}: NO EVENT OF THE ORDER ITSELF\n")),
            orders => orders.iter().for_each(|order| text.push_str(&format!("{}\n", headline(order)))),
        }
        let mut summary = Summary::default();
        self.orders.iter().for_each(|order| summary.order(order));
        summary.events(self.events.iter());
        summary.messages(self.messages.iter());
        summary.documents(self.invoices.iter());
        summary.write(text);
        self.orders.iter().for_each(|order| write_order(text, order, self.orders.len() > 1));
        events(&self.events).section(text, "events");
        messages(&self.messages).section(text, "messages");
        documents(&self.invoices).section(text, "documents");
    }
}

fn write_order(text: &mut String, order: &OrderView, is_one_of_several: bool) {
    if is_one_of_several {
        text.push_str(&format!("\n{} data\n", order.mode));
    }
    let yes = |received| if received { "yes" } else { "no" };
    let salesforce = format!(
        "OFI received: {}, EFN status: {}, OCN received: {}",
        yes(order.ofi_received),
        order.efn_status,
        yes(order.ocn_received)
    );
    let mut lines = vec![
        ("changed", format!("{}, version {}", rfc3339(order.changed_at), order.version)),
        ("events seen", order.seen.join(", ")),
        ("Salesforce", salesforce),
    ];
    lines.extend(transitions(&order.transitions));
    fields(text, "  ", &lines);
    line_table(&order.lines).section(text, "lines");
    shipments(&order.shipments).section(text, "shipments");
    operations(&order.operations).section(text, "charges");
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
