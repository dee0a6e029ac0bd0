//! `riverlock orders`: list and show orders.

pub mod args;
mod print;

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use riverlock_invoice_fetcher::queue::view as documents;
use riverlock_ledger::{postgres::bounded, view};
use riverlock_processor::store::{self, ListFilter, OrderSummary};
use riverlock_runtime::{Clock as _, SystemClock};
use riverlock_schemas::Mode;
use sqlx::PgConnection;

use crate::{
    config::Config,
    exit,
    options::moment::Moment,
    terminal::{
        out::{Output, Page},
        table::Layout,
    },
};

use self::{
    args::{Cursor, ListOptions, OrdersCommand, before},
    print::OrderReport,
};

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
    // The list is ordered by the time at which orders were first seen, newest first.
    let since = options.since.map(|since: Moment| since.at(now));
    let orders: Vec<OrderSummary> =
        found.into_iter().take_while(|order| since.is_none_or(|since| order.first_seen_at >= since)).collect();
    let page = Page::cut(orders, options.limit, |order| Cursor(order.position()).to_string());
    options.output.page(&page, "order", &print::COLUMNS, print::values)?;
    Ok(ExitCode::SUCCESS)
}

async fn show(
    connection: &mut PgConnection,
    limit: Duration,
    order_id: &str,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let report = OrderReport {
        orders: bounded(limit, store::find(connection, order_id)).await?,
        events: bounded(limit, view::events_of_order(connection, order_id)).await?,
        messages: bounded(limit, view::messages_of_order(connection, order_id)).await?,
        invoices: bounded(limit, documents::of_order(connection, order_id)).await?,
    };
    output.whole(&report, |text| {
        report.write(text, order_id, Layout::of_sections());
        Ok(())
    })?;
    Ok(exit::success_if(report.is_known()))
}
