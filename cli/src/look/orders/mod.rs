//! `riverlock orders`: look at orders.

pub mod args;

use std::{fmt::Write as _, path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use riverlock_invoice_fetcher::queue::view::{self as documents, InvoiceView};
use riverlock_ledger::{
    postgres::bounded,
    view::{self, EventView, MessageView},
};
use riverlock_processor::store::{self, ListFilter, OperationView, OrderSummary, OrderView, ShipmentView};
use riverlock_runtime::{Clock as _, SystemClock};
use riverlock_schemas::Mode;
use serde::Serialize;
use sqlx::PgConnection;

use crate::{
    config::Config,
    exit,
    look::orders::args::{Cursor, ListOptions, OrdersCommand, before},
    options::moment::Moment,
    terminal::out::{Output, Page},
};

/// All that is known under an order id.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    orders: Vec<OrderView>,
    events: Vec<EventView>,
    messages: Vec<MessageView>,
    invoices: Vec<InvoiceView>,
}

pub(crate) async fn run(file: Option<&Path>, command: OrdersCommand) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let mut connection = config.postgres.connect().await.context("PostgreSQL does not take a connection")?;
    let limit = config.postgres.answer_limit();
    match command {
        OrdersCommand::List(options) => list(&mut connection, limit, options).await,
        OrdersCommand::Show { order_id, output } => show(&mut connection, limit, &order_id, output).await,
    }
}

async fn list(connection: &mut PgConnection, limit: Duration, options: ListOptions) -> anyhow::Result<ExitCode> {
    let now = SystemClock.now();
    let until = options.until.map(|until| before(until.at(now)));
    let filter = ListFilter {
        status: options.status,
        mode: options.mode.map(Mode::from),
        before: options.after.map(|Cursor(position)| position).or(until),
    };
    let found = match options.conflicted {
        true => bounded(limit, store::list_conflicted(connection, &filter, options.limit + 1)).await?,
        false => bounded(limit, store::list(connection, &filter, options.limit + 1)).await?,
    };
    // The newest change comes first, so what changed too long ago is at the end.
    let since = options.since.map(|since: Moment| since.at(now));
    let orders: Vec<OrderSummary> =
        found.into_iter().take_while(|order| since.is_none_or(|since| order.changed_at >= since)).collect();
    let page = Page::cut(orders, options.limit, |order| Cursor(order.position()).to_string());
    options.output.page(&page, "orders", |text, order| {
        let conflicted = if order.conflicted { "  CONFLICTED" } else { "" };
        let OrderSummary { changed_at, order_id, mode, status, version, .. } = order;
        writeln!(text, "{changed_at}  {}  {mode}  {status}  version {version}{conflicted}", order_id.escape_debug())
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn show(
    connection: &mut PgConnection,
    limit: Duration,
    order_id: &str,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let shown = Shown {
        orders: bounded(limit, store::find(connection, order_id)).await?,
        events: bounded(limit, view::events_of_order(connection, order_id)).await?,
        messages: bounded(limit, view::messages_of_order(connection, order_id)).await?,
        invoices: bounded(limit, documents::of_order(connection, order_id)).await?,
    };
    let known = !(shown.orders.is_empty() && shown.events.is_empty() && shown.invoices.is_empty());
    output.whole(&shown, |text| match known {
        true => write(text, order_id, &shown),
        false => writeln!(text, "nothing is known of order {order_id}"),
    })?;
    Ok(exit::well_if(known))
}

fn write(text: &mut String, order_id: &str, shown: &Shown) -> std::fmt::Result {
    if shown.orders.is_empty() {
        writeln!(text, "order {order_id}: no event about the order itself has come yet")?;
    }
    for order in &shown.orders {
        write_order(text, order)?;
    }
    writeln!(text, "events:")?;
    for event in &shown.events {
        let reason = event.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        writeln!(
            text,
            "  {}  {}  {}{reason}  {}  {}[{}]@{}",
            event.received_at,
            event.event_type,
            event.outcome,
            event.event_id,
            event.topic,
            event.partition,
            event.offset
        )?;
    }
    writeln!(text, "messages:")?;
    for message in &shown.messages {
        let published = if message.published { "published" } else { "waits" };
        writeln!(text, "  {}  {}  {published}", message.created_at, message.kind)?;
    }
    writeln!(text, "invoices:")?;
    for invoice in &shown.invoices {
        writeln!(text, "  {invoice}")?;
    }
    Ok(())
}

fn write_order(text: &mut String, order: &OrderView) -> std::fmt::Result {
    writeln!(text, "order {} ({}): {}", order.order_id, order.mode, order.status.to_uppercase())?;
    let mut transitions: Vec<_> = order.transitions.iter().collect();
    transitions.sort_by_key(|(_, time)| **time);
    for (state, time) in transitions {
        writeln!(text, "  {time}  {state}")?;
    }
    writeln!(text, "  seen: {}", order.seen.join(", "))?;
    let yes = |received| if received { "yes" } else { "no" };
    writeln!(
        text,
        "  OFI received: {}, EFN status: {}, OCN received: {}",
        yes(order.ofi_received),
        order.efn_status,
        yes(order.ocn_received)
    )?;
    if !order.anomalies.is_empty() {
        writeln!(text, "  ANOMALIES: {}", order.anomalies.join(", "))?;
    }
    for line in &order.lines {
        let kind = line.physical.map_or("", |physical| if physical { ", physical" } else { ", digital" });
        writeln!(
            text,
            "  line {}: {} x {}{kind}, {}; {} fulfilled, {} cancelled",
            line.line_id,
            line.quantity.map_or_else(|| "?".to_owned(), |quantity| quantity.to_string()),
            line.sku_id.as_deref().unwrap_or("unknown sku"),
            line.state.as_deref().unwrap_or("unknown state"),
            line.fulfilled_quantity,
            line.cancelled_quantity,
        )?;
    }
    for shipment in &order.shipments {
        write_shipment(text, shipment)?;
    }
    for operation in &order.operations {
        write_operation(text, operation)?;
    }
    Ok(())
}

fn write_shipment(text: &mut String, shipment: &ShipmentView) -> std::fmt::Result {
    write!(text, "  fulfillment {}", shipment.fulfillment_id)?;
    if let Some(time) = shipment.created_at {
        write!(text, "  {time}")?;
    }
    for name in [&shipment.tracking_company, &shipment.tracking_number].into_iter().flatten() {
        write!(text, "  {name}")?;
    }
    writeln!(text)?;
    for line in &shipment.lines {
        let (fulfilled, cancelled) = (line.fulfilled_quantity, line.cancelled_quantity);
        writeln!(text, "    line {}: {fulfilled} fulfilled, {cancelled} cancelled", line.line_id)?;
    }
    Ok(())
}

fn write_operation(text: &mut String, operation: &OperationView) -> std::fmt::Result {
    let id = if operation.operation_id.is_empty() { &operation.charge_id } else { &operation.operation_id };
    write!(text, "  {} {}", operation.kind, if id.is_empty() { "(no id)" } else { id })?;
    if let Some(amount) = operation.amount {
        write!(text, "  {amount} {}", operation.currency.as_deref().unwrap_or_default())?;
    }
    let times =
        [("pending", operation.pending_at), ("complete", operation.complete_at), ("failed", operation.failed_at)];
    for (state, time) in times.iter().filter_map(|(state, time)| Some((state, (*time)?))) {
        write!(text, "  {state} {time}")?;
    }
    if let Some(code) = &operation.failure_code {
        write!(text, "  ({code})")?;
    }
    writeln!(text)
}
