//! `/v1/orders/{orderId}/shipments`: shipments to be reported to Digital River.
//!
//! A request stores a shipment; the processor's worker reports it later. A rejected request is answered with
//! `application/problem+json`, whose `code` names the violated rule.

use std::sync::Arc;

use axum::body::Bytes;
use axum::{
    Json,
    extract::{Path, RawQuery, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use riverlock_ledger::PostgresConfig;
use riverlock_runtime::{
    Clock,
    api::{ApiError, ErrorResponses},
};
use riverlock_schemas::Mode;
use riverlock_shipments::{AddError, Line, NewReport, RuleViolation, Source, StoredReport, add, view};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    orders::{failed, order_id},
    params::Params,
};

pub(super) const PATH: &str = "/v1/orders/{orderId}/shipments";

/// Maximum size of a request body, bytes.
pub(super) const BODY_BYTES_MAX: usize = riverlock_shipments::intake::SHIPMENT_BYTES_MAX;

/// Maximum number of concurrent connections to PostgreSQL.
const CONNECTIONS_MAX: usize = 4;

/// Maximum number of shipments in a list.
const LIST_MAX: i64 = 500;

/// Opens database connections. Each request has its own: if the request is dropped, the connection is closed and PostgreSQL
/// rolls back the transaction.
pub(super) struct Shipments {
    postgres: PostgresConfig,
    clock: Arc<dyn Clock>,
    /// Limits the requests that use PostgreSQL at the same time; the others wait.
    slots: Semaphore,
}

impl Shipments {
    pub(super) fn new(postgres: PostgresConfig, clock: Arc<dyn Clock>) -> Self {
        Self { postgres, clock, slots: Semaphore::new(CONNECTIONS_MAX) }
    }

    /// Opens a connection. The request must hold the permit as long as it uses the connection.
    async fn connect(&self) -> Result<(PgConnection, SemaphorePermit<'_>), ApiError> {
        let slot = self.slots.acquire().await.expect("the semaphore is never closed");
        let connection = self.postgres.connect().await.map_err(|error| failed(&error.into()))?;
        Ok((connection, slot))
    }
}

/// A shipment to be reported.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Shipment {
    /// What was shipped or cancelled; each line once.
    lines: Vec<ShipmentLine>,
    /// The carrier.
    tracking_company: Option<String>,
    /// The carrier's tracking number.
    tracking_number: Option<String>,
    /// The carrier's tracking page.
    tracking_url: Option<String>,
}

/// A line of a shipment. One of the quantities must be above 0.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ShipmentLine {
    /// Digital River's id of the order's line.
    line_id: String,
    /// Units shipped; their amount is captured.
    #[serde(default)]
    quantity: i64,
    /// Units that will not be shipped; their amount is released.
    #[serde(default)]
    cancel_quantity: i64,
}

/// A stored shipment.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct StoredShipment {
    /// The report's id, which is sent to Digital River as metadata.
    report_id: String,
    /// Whether it was already stored with the same key.
    repeated: bool,
}

/// The state of a stored shipment.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ShipmentState {
    /// The report's id.
    report_id: String,
    /// `waiting`, `sending`, `unknown`, `reported`, `refused`, `unresolved` or `withdrawn`.
    state: String,
    /// The idempotency key of the request that stored it.
    idempotency_key: String,
    /// Digital River's id of the fulfillment, once it is reported.
    fulfillment_id: Option<String>,
    /// Digital River's error code, if it rejected the shipment.
    code: Option<String>,
}

/// The shipments of an order.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ShipmentStates {
    order_id: String,
    /// The newest first, at most 500.
    shipments: Vec<ShipmentState>,
}

/// Problem details (RFC 9457) of a shipment that was not stored.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct ProblemBody {
    /// Always `about:blank`; `code` identifies the problem.
    r#type: &'static str,
    /// The reason phrase of the status.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// A human-readable explanation.
    detail: String,
    /// `unknown_order`, `order_stopped`, `order_not_accepted`, `unknown_line`, `repeated_line`, `invalid_lines`,
    /// `invalid_quantity`, `quantity_too_large`, `idempotency_key_reused` or `invalid_request`.
    code: &'static str,
}

fn problem(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Response {
    let title = status.canonical_reason().unwrap_or_default();
    let body = ProblemBody { r#type: "about:blank", title, status: status.as_u16(), detail: detail.into(), code };
    let mut response = (status, Json(body)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

/// Stores a shipment of an order, so that it is reported to Digital River once.
///
/// Repeated requests with the same `Idempotency-Key` and the same content store one shipment.
#[utoipa::path(
    post, path = PATH, operation_id = "addShipment", tag = "orders", security(("token" = [])),
    params(
        ("orderId" = String, Path, description = "Digital River's id of the order"),
        ("mode" = String, Query, description = "The order's mode", pattern = "^(live|test)$"),
        ("Idempotency-Key" = String, Header, description = "1 to 200 visible ASCII characters, chosen by the caller"),
    ),
    request_body = Shipment,
    responses(
        (status = 201, description = "The shipment is stored", body = StoredShipment),
        (status = 200, description = "The shipment was already stored with the same key", body = StoredShipment),
        (status = 400, description = "The request is invalid", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "The order is unknown", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The shipment contradicts the order, or the key was used for another shipment",
         body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn create(
    State(shipments): State<Arc<Shipments>>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let mut params = Params::parse(query.as_deref())?;
    let mode = params.mode()?;
    params.end()?;
    let order_id = order_id(path)?;
    let bad = |detail: String| Ok(problem(StatusCode::BAD_REQUEST, "invalid_request", detail));
    let Some(mode) = mode else { return bad("the parameter `mode` must be `live` or `test`".to_owned()) };
    let mut keys = headers.get_all("idempotency-key").iter();
    let (Some(key), None) = (keys.next().and_then(|key| key.to_str().ok()), keys.next()) else {
        return bad("the header Idempotency-Key must be present exactly once".to_owned());
    };
    let shipment: Shipment = match serde_json::from_slice(&body) {
        Ok(shipment) => shipment,
        Err(error) => return bad(format!("the body is invalid: {error}")),
    };
    let new = new_report(order_id.as_str(), mode, key, shipment);
    let (mut connection, _slot) = shipments.connect().await?;
    match add::add(&mut connection, &new, shipments.clock.now()).await {
        Ok(StoredReport { report_id, repeated }) => {
            let status = if repeated { StatusCode::OK } else { StatusCode::CREATED };
            Ok((status, Json(StoredShipment { report_id: report_id.to_string(), repeated })).into_response())
        }
        Err(AddError::Sql(error)) => Err(failed(&error.into())),
        Err(error) => Ok(refusal(&error)),
    }
}

fn new_report(order_id: &str, mode: Mode, key: &str, shipment: Shipment) -> NewReport {
    let line = |line: ShipmentLine| Line {
        line_id: line.line_id,
        quantity: line.quantity,
        cancel_quantity: line.cancel_quantity,
    };
    NewReport {
        order_id: order_id.to_owned(),
        mode,
        idempotency_key: key.to_owned(),
        lines: shipment.lines.into_iter().map(line).collect(),
        tracking_company: shipment.tracking_company,
        tracking_number: shipment.tracking_number,
        tracking_url: shipment.tracking_url,
        source: Source::Api,
        created_by: "order API".to_owned(),
    }
}

fn refusal(error: &AddError) -> Response {
    let (status, code) = match error {
        AddError::Refused(refusal) => {
            let status = match refusal {
                RuleViolation::UnknownOrder(_) => StatusCode::NOT_FOUND,
                RuleViolation::Stopped(_)
                | RuleViolation::NotAccepted(_)
                | RuleViolation::TooMany { .. }
                | RuleViolation::UnknownLine(_) => StatusCode::CONFLICT,
                RuleViolation::Lines | RuleViolation::Repeated(_) | RuleViolation::Quantity(_) => {
                    StatusCode::BAD_REQUEST
                }
            };
            (status, refusal.code())
        }
        AddError::KeyReused(_) => (StatusCode::CONFLICT, "idempotency_key_reused"),
        _ => (StatusCode::BAD_REQUEST, "invalid_request"),
    };
    problem(status, code, error.to_string())
}

/// The stored shipments of an order and the states of their reports.
#[utoipa::path(
    get, path = PATH, operation_id = "listShipments", tag = "orders", security(("token" = [])),
    params(
        ("orderId" = String, Path, description = "Digital River's id of the order"),
        ("mode" = Option<String>, Query, description = "Only shipments of this mode", pattern = "^(live|test)$"),
    ),
    responses((status = 200, description = "The shipments", body = ShipmentStates), ErrorResponses)
)]
pub(super) async fn list(
    State(shipments): State<Arc<Shipments>>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Json<ShipmentStates>, ApiError> {
    let mut params = Params::parse(query.as_deref())?;
    let mode = params.mode()?;
    params.end()?;
    let order_id = order_id(path)?;
    let (mut connection, _slot) = shipments.connect().await?;
    let found = view::list(&mut connection, Some(order_id.as_str()), None, None, LIST_MAX).await;
    let found = found.map_err(|error| failed(&error.into()))?.into_iter();
    let state = |report: view::ReportView| ShipmentState {
        report_id: report.report_id.to_string(),
        state: report.state,
        idempotency_key: report.idempotency_key,
        fulfillment_id: report.fulfillment_id,
        code: report.last_code,
    };
    let shipments = found.filter(|report| mode.is_none_or(|mode| report.mode() == mode)).map(state).collect();
    Ok(Json(ShipmentStates { order_id: order_id.to_string(), shipments }))
}
