//! Documents as text.

use riverlock_invoice_fetcher::queue::view::{InvoiceView, RetryView};
use riverlock_schemas::time::rfc3339;
use serde::Serialize;

use crate::terminal::{
    table::{Column, Layout, Table},
    text::{MISSING, fields, optional, optional_time, printable},
};

/// The columns of `invoices list`.
pub(super) const COLUMNS: [Column; 9] = [
    Column::text("QUEUED"),
    Column::text("DOCUMENT"),
    Column::text("PURPOSE"),
    Column::text("ORDER"),
    Column::text("MODE"),
    Column::text("STATE"),
    Column::number("ATTEMPTS"),
    Column::text("NEXT ATTEMPT"),
    Column::text("ERROR"),
];

/// The columns of `invoices list --missing`.
pub(super) const MISSING_COLUMNS: [Column; 6] = [
    Column::text("COMPLETE"),
    Column::text("ORDER"),
    Column::text("MODE"),
    Column::number("TOTAL"),
    Column::text("SELLING ENTITY"),
    Column::text("DOCUMENTS"),
];

/// The values of one document in `invoices list`.
pub(super) fn values(document: &InvoiceView) -> [String; 9] {
    [
        rfc3339(document.queued_at),
        document.file_id.to_string(),
        document.purpose.clone(),
        document.order_id.clone(),
        document.mode().to_string(),
        document.state.clone(),
        document.attempts.to_string(),
        optional_time(document.next_attempt_at),
        optional(document.last_error.as_deref()),
    ]
}

/// A document with its retries.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DocumentReport {
    #[serde(flatten)]
    pub(super) document: InvoiceView,
    pub(super) retries: Vec<RetryView>,
}

impl DocumentReport {
    /// Writes the state and the last error first, then the details.
    pub(super) fn write(&self, text: &mut String) {
        let Self { document, retries } = self;
        let (purpose, state) = (printable(&document.purpose), document.state.to_uppercase());
        text.push_str(&format!("{purpose} {} ({}): {state}\n", document.file_id, document.mode()));
        let present = |value: Option<String>| value.unwrap_or_default();
        fields(
            text,
            "  ",
            &[
                ("last error", present(document.last_error.as_deref().map(printable))),
                ("order", printable(&document.order_id)),
                ("queued", rfc3339(document.queued_at)),
                ("attempts", document.attempts.to_string()),
                ("next attempt", present(document.next_attempt_at.map(rfc3339))),
                ("ended", present(document.ended_at.map(rfc3339))),
                ("object", present(document.object_key.as_deref().map(printable))),
                ("size", present(document.size_bytes.map(|bytes| format!("{bytes} bytes")))),
                ("SHA-256", present(document.sha256.map(|hash| hash.to_string()))),
                ("earlier SHA-256", present(document.earlier_sha256.map(|hash| hash.to_string()))),
            ],
        );
        retry_table(retries).section(text, "retries", Layout::of_sections());
    }
}

fn retry_table(retries: &[RetryView]) -> Table {
    const COLUMNS: [Column; 6] = [
        Column::text("TIME"),
        Column::text("BY"),
        Column::text("REASON"),
        Column::text("FORMER STATE"),
        Column::number("ATTEMPTS"),
        Column::text("ERROR"),
    ];
    let mut table = Table::new(&COLUMNS);
    for retry in retries {
        table.row([
            rfc3339(retry.retried_at),
            retry.retried_by.clone(),
            retry.reason.clone(),
            retry.state.clone(),
            retry.attempts.to_string(),
            retry.last_error.clone().unwrap_or_else(|| MISSING.to_owned()),
        ]);
    }
    table
}
