//! Shipments as text.

use riverlock_schemas::time::rfc3339;
use riverlock_shipments::{
    intake::RejectionView,
    view::{LineView, ReportView, RequestView},
};
use serde::Serialize;

use crate::terminal::{
    table::{Column, Layout, Table},
    text::{MISSING, fields, optional, or_missing, printable},
};

/// The columns of `shipments list`.
pub(super) const COLUMNS: [Column; 6] = [
    Column::text("STORED"),
    Column::text("REPORT"),
    Column::text("ORDER"),
    Column::text("MODE"),
    Column::text("STATE"),
    Column::text("FULFILLMENT OR ERROR"),
];

/// The values of one shipment in `shipments list`.
pub(super) fn values(report: &ReportView) -> [String; 6] {
    [
        rfc3339(report.created_at),
        report.report_id.to_string(),
        report.order_id.clone(),
        report.mode().to_string(),
        report.state.clone(),
        optional(report.fulfillment_id.as_deref().or(report.last_error.as_deref())),
    ]
}

/// The columns of `shipments rejected`.
pub(super) const REJECTED_COLUMNS: [Column; 7] = [
    Column::text("READ"),
    Column::text("RECORD"),
    Column::text("ORDER"),
    Column::text("MODE"),
    Column::text("KEY"),
    Column::text("OUTCOME"),
    Column::text("REASON"),
];

/// The values of one record in `shipments rejected`.
pub(super) fn rejected(record: &RejectionView) -> [String; 7] {
    [
        rfc3339(record.created_at),
        format!("{}[{}]@{}", record.topic, record.partition, record.offset),
        optional(record.order_id.as_deref()),
        optional(record.mode().map(riverlock_schemas::Mode::as_str)),
        optional(record.idempotency_key.as_deref()),
        record.outcome.clone(),
        format!("{}: {}", record.code, printable(&record.detail)),
    ]
}

/// A shipment with its lines and the requests to Digital River.
#[derive(Serialize)]
pub(super) struct ShipmentReport {
    pub(super) report: ReportView,
    pub(super) lines: Vec<LineView>,
    pub(super) requests: Vec<RequestView>,
}

impl ShipmentReport {
    /// Writes the state and the last error first, then the details.
    pub(super) fn write(&self, text: &mut String) {
        let Self { report, lines, requests } = self;
        let state = report.state.to_uppercase();
        text.push_str(&format!("shipment {} ({}): {state}\n", report.report_id, report.mode()));
        let present = |value: &Option<String>| value.as_deref().map(printable).unwrap_or_default();
        let reason = present(&report.settled_reason);
        let settled = report.settled_by.as_ref().map(|by| format!("by {}: {reason}", printable(by)));
        fields(
            text,
            "  ",
            &[
                ("last error", present(&report.last_error)),
                ("order", printable(&report.order_id)),
                ("fulfillment", present(&report.fulfillment_id)),
                ("key", printable(&report.idempotency_key)),
                ("stored", format!("{} by {}", rfc3339(report.created_at), printable(&report.created_by))),
                ("carrier", present(&report.tracking_company)),
                ("tracking number", present(&report.tracking_number)),
                ("tracking page", present(&report.tracking_url)),
                ("settled", settled.unwrap_or_default()),
            ],
        );
        line_table(lines).section(text, "lines", Layout::of_sections());
        request_table(requests).section(text, "requests", Layout::of_sections());
    }
}

fn line_table(lines: &[LineView]) -> Table {
    const COLUMNS: [Column; 3] = [Column::text("LINE"), Column::number("SHIPPED"), Column::number("CANCELLED")];
    let mut table = Table::new(&COLUMNS);
    for line in lines {
        table.row([line.line_id.clone(), line.quantity.to_string(), line.cancel_quantity.to_string()]);
    }
    table
}

fn request_table(requests: &[RequestView]) -> Table {
    const COLUMNS: [Column; 5] = [
        Column::text("TIME"),
        Column::text("REQUEST"),
        Column::text("STATUS"),
        Column::text("REQUEST ID"),
        Column::text("RESULT"),
    ];
    let mut table = Table::new(&COLUMNS);
    for request in requests {
        table.row([
            rfc3339(request.requested_at),
            request.operation.clone(),
            request.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string()),
            request.request_id.clone().unwrap_or_else(|| MISSING.to_owned()),
            or_missing(&request.result),
        ]);
    }
    table
}
