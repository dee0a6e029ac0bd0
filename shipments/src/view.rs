//! Read model of shipment reports for the CLI and API.

use chrono::{DateTime, Utc};
use riverlock_schemas::Mode;
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::store;

/// A report.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the columns of shipment_reports are described in the migration")]
pub struct ReportView {
    pub report_id: Uuid,
    pub order_id: String,
    pub live_mode: bool,
    pub state: String,
    pub idempotency_key: String,
    pub source: String,
    pub created_by: String,
    pub tracking_company: Option<String>,
    pub tracking_number: Option<String>,
    pub tracking_url: Option<String>,
    pub attempts: i32,
    pub next_attempt_at: DateTime<Utc>,
    pub fulfillment_id: Option<String>,
    pub last_code: Option<String>,
    pub last_error: Option<String>,
    pub created_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub settled_by: Option<String>,
    pub settled_reason: Option<String>,
}

impl ReportView {
    /// The order's mode.
    #[must_use]
    pub fn mode(&self) -> Mode {
        Mode::from_live(self.live_mode)
    }
}

/// A line of a report.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the field names are self-explanatory")]
pub struct LineView {
    pub line_id: String,
    pub quantity: i64,
    pub cancel_quantity: i64,
}

/// A request that was sent about a report.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the columns of shipment_report_requests are described in the migration")]
pub struct RequestView {
    pub requested_at: DateTime<Utc>,
    pub operation: String,
    pub status: Option<i32>,
    pub request_id: Option<String>,
    pub result: String,
}

/// Returns reports, newest first: of an order, in a state, or all; starting after the report `after`.
pub async fn list(
    connection: &mut PgConnection,
    order_id: Option<&str>,
    state: Option<&str>,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<ReportView>, sqlx::Error> {
    sqlx::query_as!(
        ReportView,
        "-- shipment_reports_list
         SELECT report_id, order_id, live_mode, state, idempotency_key, source, created_by, tracking_company, tracking_number,
                tracking_url, attempts, next_attempt_at, fulfillment_id, last_code, last_error, created_at, ended_at,
                settled_by, settled_reason
         FROM shipment_reports
         WHERE ($1::text IS NULL OR order_id = $1) AND ($2::text IS NULL OR state = $2)
           AND ($3::uuid IS NULL OR (created_at, report_id) <
                (SELECT a.created_at, a.report_id FROM shipment_reports a WHERE a.report_id = $3))
         ORDER BY created_at DESC, report_id DESC LIMIT $4",
        order_id,
        state,
        after,
        limit
    )
    .fetch_all(connection)
    .await
}

/// Returns a report with its lines and requests; `None` if there is none.
pub async fn show(
    connection: &mut PgConnection,
    report_id: Uuid,
) -> Result<Option<(ReportView, Vec<LineView>, Vec<RequestView>)>, sqlx::Error> {
    let report = sqlx::query_as!(
        ReportView,
        "-- shipment_report_show
         SELECT report_id, order_id, live_mode, state, idempotency_key, source, created_by, tracking_company, tracking_number,
                tracking_url, attempts, next_attempt_at, fulfillment_id, last_code, last_error, created_at, ended_at,
                settled_by, settled_reason
         FROM shipment_reports WHERE report_id = $1",
        report_id
    );
    let Some(report) = report.fetch_optional(&mut *connection).await? else { return Ok(None) };
    let requests = sqlx::query_as!(
        RequestView,
        "-- shipment_report_requests_of
         SELECT requested_at, operation, status, request_id, result FROM shipment_report_requests
         WHERE report_id = $1 ORDER BY request_number",
        report_id
    );
    let requests = requests.fetch_all(&mut *connection).await?;
    let lines = store::lines(connection, report_id).await?.into_iter();
    let lines = lines.map(|line| LineView {
        line_id: line.line_id,
        quantity: line.quantity,
        cancel_quantity: line.cancel_quantity,
    });
    Ok(Some((report, lines.collect(), requests)))
}
