//! The content of a trace.

use riverlock_invoice_fetcher::queue::view::InvoiceView;
use riverlock_ledger::view::{EventView, MessageView};
use riverlock_processor::{history::HistoryStep, store::OrderView};
use serde::Serialize;

use super::receipt::Receipt;

/// Everything that is stored about an id.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Trace {
    pub(super) id: String,
    /// `event`, `order`, both, or empty if the id is unknown.
    pub(super) known_as: Vec<&'static str>,
    /// Whether every record that could be read has its recorded hash, and no signature is invalid.
    pub(super) intact: bool,
    /// Whether there are more records than the trace has.
    pub(super) truncated: bool,
    /// The orders of the records.
    pub(super) orders: Vec<OrderView>,
    /// In the order in which they were processed.
    pub(super) records: Vec<RecordTrace>,
    /// Messages that none of the records is known to have caused.
    pub(super) other_messages: Vec<MessageView>,
}

/// A record and its effects.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RecordTrace {
    #[serde(flatten)]
    pub(super) event: EventView,
    pub(super) receipt: Receipt,
    /// What the record changed. Absent if it is not about an order, had no effect, or if a record of the order cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) transition: Option<HistoryStep>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) messages: Vec<MessageView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dead_letter: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) invoices: Vec<InvoiceView>,
}
