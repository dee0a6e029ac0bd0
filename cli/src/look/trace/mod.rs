//! `riverlock trace`: the chain of custody of an event, or of all events of an order.
//!
//! From the audit: every record with its outcome. From Kafka: the record itself, whose hash is compared with the audit's and
//! whose signature is verified again with the configured secrets, as of the time at which it came. From the fold, run again
//! over the order's records: what each event changed and which messages it caused. Then what became of those messages, of
//! dead letters and of announced documents.

pub mod args;
mod chain;
mod print;
mod receipt;

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;
use riverlock_invoice_fetcher::queue::view::InvoiceView;
use riverlock_ledger::view::{EventView, MessageView};
use riverlock_processor::{history::HistoryStep, store::OrderView};
use serde::Serialize;

use crate::{config::Config, exit, look::trace::args::TraceOptions};

/// All that is known of an id.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Trace {
    id: String,
    /// `event`, `order`, both or nothing.
    known_as: Vec<&'static str>,
    /// Whether every record that could be read is the one that was audited, and none has a wrong signature.
    intact: bool,
    /// Whether there are more records than are shown.
    truncated: bool,
    /// The orders that the records are about.
    orders: Vec<OrderView>,
    /// In the order in which they had their outcomes.
    records: Vec<Link>,
    /// Messages that none of the shown events caused, as far as one can tell.
    other_messages: Vec<MessageView>,
}

/// A record, and everything that came of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Link {
    #[serde(flatten)]
    event: EventView,
    receipt: receipt::Receipt,
    /// What it changed; absent when it is not for an order, took no effect, or the order's records cannot all be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    transition: Option<HistoryStep>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    messages: Vec<MessageView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    invoices: Vec<InvoiceView>,
}

pub(crate) async fn run(file: Option<&Path>, options: &TraceOptions) -> anyhow::Result<ExitCode> {
    let config = Config::load_with_kafka(file)?;
    let mut connection = config.postgres.connect().await.context("PostgreSQL does not take a connection")?;
    let trace = chain::follow(&config, &mut connection, options).await?;
    options.output.whole(&trace, |text| print::write(text, &trace))?;
    Ok(exit::well_if(!trace.known_as.is_empty() && trace.intact))
}
