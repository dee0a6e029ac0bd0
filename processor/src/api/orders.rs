//! Read requests: `GET /v1/orders`, `GET /v1/orders/{orderId}` and `GET /v1/orders/{orderId}/events`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, RawQuery, State, rejection::PathRejection},
};
use riverlock_ledger::view::{self, EventPosition, EventView};
use riverlock_runtime::api::{ApiError, ErrorResponses};
use riverlock_schemas::{Mode, OrderId};
use serde::Serialize;
use sqlx::{PgPool, Postgres, pool::PoolConnection};

use super::{cursor::Cursor, params::Params};
use crate::store::{self, ListFilter, ListPosition, OrderDetails, OrderSummary, OrderView};

pub(super) const LIST: &str = "/v1/orders";
pub(super) const ORDER: &str = "/v1/orders/{orderId}";
pub(super) const EVENTS: &str = "/v1/orders/{orderId}/events";

/// The connection pool that all requests share.
pub(super) struct Database(pub(super) PgPool);

impl Database {
    async fn connection(&self) -> Result<PoolConnection<Postgres>, ApiError> {
        self.0.acquire().await.map_err(|error| failed(&error.into()))
    }
}

pub(super) fn failed(error: &riverlock_ledger::Error) -> ApiError {
    tracing::error!("cannot read orders: {error}");
    match error {
        riverlock_ledger::Error::Inconsistent { .. } => ApiError::internal(),
        _ => ApiError::unavailable("database_unavailable", "the database is unavailable"),
    }
}

/// An order in each mode in which it exists.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Orders {
    order_id: String,
    /// One, or two if the id exists in both modes; the live one first.
    orders: Vec<OrderView>,
}

/// A page of orders.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct OrderPage {
    /// The orders that were first seen last come first.
    orders: Vec<OrderSummary>,
    /// What to send as `before` for the next page; null on the last.
    next: Option<String>,
}

/// A page of an order's records.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventPage {
    order_id: String,
    /// The latest record first.
    events: Vec<EventView>,
    /// What to send as `before` for the next page; null on the last.
    next: Option<String>,
}

/// Reduces an order's details to the fields of [`OrderDetails`], which has no personal data.
pub(super) fn without_personal_data(mut order: OrderView) -> Result<OrderView, ApiError> {
    let reduced = serde_json::from_value::<OrderDetails>(order.details.take()).and_then(serde_json::to_value);
    order.details = reduced.map_err(|error| {
        tracing::error!(order.id = order.order_id, "cannot show the details of order {}: {error}", order.order_id);
        ApiError::internal()
    })?;
    Ok(order)
}

/// An order: status, lines, anomalies.
#[utoipa::path(
    get, path = ORDER, operation_id = "getOrder", tag = "orders", security(("token" = [])),
    params(
        ("orderId" = String, Path, description = "Digital River's id of the order"),
        ("mode" = Option<String>, Query, description = "Only the order of this mode", pattern = "^(live|test)$"),
    ),
    responses((status = 200, description = "The order, in each mode in which it exists", body = Orders), ErrorResponses)
)]
pub(super) async fn order(
    State(database): State<Arc<Database>>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Json<Orders>, ApiError> {
    let mut params = Params::parse(query.as_deref())?;
    let mode = params.mode()?;
    params.end()?;
    let order_id = order_id(path)?;
    let found = store::find(&mut *database.connection().await?, order_id.as_str()).await;
    let found = found.map_err(|error| failed(&error))?.into_iter();
    let wanted = found.filter(|order| mode.is_none_or(|mode| order.mode == mode));
    let orders: Vec<OrderView> = wanted.map(without_personal_data).collect::<Result<_, _>>()?;
    if orders.is_empty() {
        return Err(unknown(mode));
    }
    Ok(Json(Orders { order_id: order_id.to_string(), orders }))
}

/// Orders, those that were first seen last come first.
///
/// An order that changes while pages are read moves to the front: no order is returned twice, and every order is returned that
/// has not changed since the first page. To get the others too, start again without `before` and stop at an order whose
/// `changedAt` is not after that of the first order of the first page.
#[utoipa::path(
    get, path = LIST, operation_id = "listOrders", tag = "orders", security(("token" = [])),
    params(
        ("status" = Option<crate::domain::Status>, Query, description = "Only orders with this status"),
        ("mode" = Option<String>, Query, description = "Only orders of this mode", pattern = "^(live|test)$"),
        ("before" = Option<String>, Query, description = "`next` of the previous page"),
        ("limit" = Option<i64>, Query, description = "Maximum number of items; default 50",
         minimum = 1, maximum = 500),
    ),
    responses((status = 200, description = "A page of orders", body = OrderPage), ErrorResponses)
)]
pub(super) async fn list(
    State(database): State<Arc<Database>>,
    RawQuery(query): RawQuery,
) -> Result<Json<OrderPage>, ApiError> {
    let mut params = Params::parse(query.as_deref())?;
    let before = params.before::<ListPosition>()?;
    let (filter, limit) = (ListFilter { status: params.status()?, mode: params.mode()?, before }, params.limit()?);
    params.end()?;
    let found = store::list(&mut *database.connection().await?, &filter, limit + 1).await;
    let (orders, next) = page(found.map_err(|error| failed(&error))?, limit, OrderSummary::position);
    Ok(Json(OrderPage { orders, next }))
}

/// The records of an order, each with its outcome, the latest first.
#[utoipa::path(
    get, path = EVENTS, operation_id = "listOrderEvents", tag = "orders", security(("token" = [])),
    params(
        ("orderId" = String, Path, description = "Digital River's id of the order"),
        ("mode" = Option<String>, Query, description = "Only records of this mode", pattern = "^(live|test)$"),
        ("before" = Option<String>, Query, description = "`next` of the previous page"),
        ("limit" = Option<i64>, Query, description = "Maximum number of items; default 50",
         minimum = 1, maximum = 500),
    ),
    responses((status = 200, description = "A page of records", body = EventPage), ErrorResponses)
)]
pub(super) async fn events(
    State(database): State<Arc<Database>>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Json<EventPage>, ApiError> {
    let mut params = Params::parse(query.as_deref())?;
    let (mode, before, limit) = (params.mode()?, params.before::<EventPosition>()?, params.limit()?);
    params.end()?;
    let order_id = order_id(path)?;
    let (id, live) = (order_id.as_str(), mode.map(Mode::is_live));
    let mut connection = database.connection().await?;
    let found = view::events_of_order_page(&mut connection, id, live, before.as_ref(), limit + 1).await;
    let found = found.map_err(|error| failed(&error))?;
    if found.is_empty() && before.is_none() {
        return Err(unknown(mode));
    }
    let position = |event: &EventView| EventPosition { received_at: event.received_at, record: event.position() };
    let (events, next) = page(found, limit, position);
    Ok(Json(EventPage { order_id: order_id.to_string(), events, next }))
}

/// Splits `limit + 1` rows into a page and the cursor of the next page, if there is one.
pub(super) fn page<T, C: Cursor>(mut rows: Vec<T>, limit: i64, position: impl Fn(&T) -> C) -> (Vec<T>, Option<String>) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|last| position(last).encode());
    (rows, next)
}

/// Parses the order id of the path. An invalid id is answered like an unknown one.
pub(super) fn order_id(path: Result<Path<String>, PathRejection>) -> Result<OrderId, ApiError> {
    let Path(id) = path.map_err(|_| ApiError::parameter("orderId", "is not valid UTF-8"))?;
    OrderId::parse(id).map_err(|_| unknown(None))
}

pub(super) fn unknown(mode: Option<Mode>) -> ApiError {
    ApiError::not_found(match mode {
        None => "unknown order".to_owned(),
        Some(mode) => format!("unknown order in {mode} mode"),
    })
}
