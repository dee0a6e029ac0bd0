//! `riverlock orders`: look at orders.

use std::{fmt::Write as _, path::Path, process::ExitCode};

use anyhow::Context as _;
use riverlock_invoice_fetcher::view::{self as documents, InvoiceView};
use riverlock_ledger::view::{self, EventView, MessageView};
use riverlock_processor::store::{self, OrderView};
use serde::Serialize;

use crate::{args::OrdersCommand, config::Config, out};

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
    let OrdersCommand::Show { order_id, json } = command;
    let config = Config::load(file)?;
    let mut connection = config.postgres.connect().await.context("PostgreSQL does not take a connection")?;
    let shown = Shown {
        orders: store::find(&mut connection, &order_id).await?,
        events: view::events_of_order(&mut connection, &order_id).await?,
        messages: view::messages_of_order(&mut connection, &order_id).await?,
        invoices: documents::of_order(&mut connection, &order_id).await?,
    };
    let known = !(shown.orders.is_empty() && shown.events.is_empty() && shown.invoices.is_empty());
    if json {
        out::print(&format!("{}\n", serde_json::to_string_pretty(&shown)?));
    } else if known {
        let mut text = String::new();
        write(&mut text, &order_id, &shown).expect("writing to a text never fails");
        out::print(&text);
    } else {
        println!("nothing is known of order {order_id}");
    }
    Ok(if known { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(text: &mut String, order_id: &str, shown: &Shown) -> std::fmt::Result {
    if shown.orders.is_empty() {
        writeln!(text, "order {order_id}: no event about the order itself has come yet")?;
    }
    for order in &shown.orders {
        writeln!(text, "order {} ({}): {}", order.order_id, order.mode, order.status.to_uppercase())?;
        let mut transitions: Vec<_> = order.transitions.iter().collect();
        transitions.sort_by_key(|(_, time)| **time);
        for (state, time) in transitions {
            writeln!(text, "  {time}  {state}")?;
        }
        writeln!(text, "  seen: {}", order.seen.join(", "))?;
        if !order.anomalies.is_empty() {
            writeln!(text, "  ANOMALIES: {}", order.anomalies.join(", "))?;
        }
        for line in &order.lines {
            writeln!(
                text,
                "  line {}: {} x {}, {}",
                line.line_id,
                line.quantity.map_or_else(|| "?".to_owned(), |quantity| quantity.to_string()),
                line.sku_id.as_deref().unwrap_or("unknown sku"),
                line.state.as_deref().unwrap_or("unknown state"),
            )?;
        }
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
        let published = message.published_at.map_or_else(|| "waits".to_owned(), |time| format!("published {time}"));
        writeln!(text, "  {}  {}  {published}", message.created_at, message.kind)?;
    }
    writeln!(text, "invoices:")?;
    for invoice in &shown.invoices {
        writeln!(text, "  {invoice}")?;
    }
    Ok(())
}
