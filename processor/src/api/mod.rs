//! Orders over HTTP, for programs of our own: `GET /v1/orders/{orderId}` is an order, `GET /v1/orders` lists orders,
//! `GET /v1/orders/{orderId}/events` lists what came about one. `GET /v1/openapi.json` describes it.
//!
//! `POST /v1/orders/{orderId}/shipments` stores a shipment, which is reported to Digital River.
//!
//! Off unless configured, on loopback unless configured otherwise, and for holders of the token only. What reads never locks. Names and addresses of customers are left out: whoever ships has them from `fulfillment.requested`.

mod cursor;
mod metrics;
pub mod openapi;
mod params;
mod shipments;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, RawQuery, Request, State, rejection::PathRejection},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use riverlock_ledger::{
    PostgresConfig,
    view::{self, EventPosition, EventView},
};
use riverlock_runtime::{
    ConfigError, Context,
    api::{self, ApiError, Tokens},
    reload,
};
use riverlock_schemas::{Mode, OrderId};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, Postgres, pool::PoolConnection};

use self::{cursor::Cursor, openapi::Refusals, params::Params};
use crate::store::{self, ListFilter, ListPosition, OrderSummary, OrderView};

/// Connections to PostgreSQL that requests share; the others wait for one.
const DATABASE_CONNECTIONS: u32 = 4;

/// How long PostgreSQL works on one statement of a request.
const STATEMENT_MAX: Duration = Duration::from_secs(5);

/// How long a request may take in all.
const REQUEST_MAX: Duration = Duration::from_secs(15);

/// `[processor.api]`: where programs of our own read orders.
pub type ApiConfig = api::ApiConfig<8085>;

/// The API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address cannot be listened on.
    #[error("processor.api.listen: {address} cannot be listened on: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// Listens, and serves until the shutdown. Returns where.
///
/// # Errors
/// When the configuration is wrong or the address cannot be listened on.
pub async fn start(config: &ApiConfig, postgres: &PostgresConfig, context: &Context) -> Result<SocketAddr, StartError> {
    serve(config, &Tokens::new(config), postgres, context).await
}

/// As [`start`]; `load` reads the section again while the process runs, for new tokens. Without the section, the former tokens
/// stay.
///
/// # Errors
/// As for [`start`].
pub async fn start_reloading(
    config: &ApiConfig,
    load: Arc<reload::Load<Option<ApiConfig>>>,
    postgres: &PostgresConfig,
    context: &Context,
) -> Result<SocketAddr, StartError> {
    let tokens = Tokens::new(config);
    let address = serve(config, &tokens, postgres, context).await?;
    let checked: Arc<reload::Load<Option<ApiConfig>>> = Arc::new(move || {
        let api = load()?;
        api.as_ref().map_or(Ok(()), |api| api.validate("processor.api"))?;
        Ok(api)
    });
    let take = move |api: Option<ApiConfig>| {
        if api.is_some_and(|api| tokens.replace(&api)) {
            tracing::info!("the new token of the API for orders is in use");
        }
        Ok(())
    };
    context.shutdown.spawn("order-api-tokens", reload::run("order-api-tokens", checked, take, context.clone()));
    Ok(address)
}

async fn serve(
    config: &ApiConfig,
    tokens: &Tokens,
    postgres: &PostgresConfig,
    context: &Context,
) -> Result<SocketAddr, StartError> {
    let postgres = PostgresConfig {
        connections_max: DATABASE_CONNECTIONS,
        statement_timeout: STATEMENT_MAX.min(postgres.statement_timeout),
        ..postgres.clone()
    };
    metrics::describe();
    let shipments = shipments::Shipments::new(postgres.clone(), Arc::clone(&context.clock));
    let router = router(tokens, postgres.pool()?, shipments);
    let started = api::start("order-api", config.listen, router, context).await;
    started.map_err(|source| StartError::Listen { address: config.listen, source })
}

fn router(tokens: &Tokens, pool: PgPool, shipments: shipments::Shipments) -> Router {
    let shipments = Router::new()
        .route(SHIPMENTS, get(shipments::list).post(shipments::create))
        .layer(DefaultBodyLimit::max(shipments::BODY_BYTES_MAX))
        .with_state(Arc::new(shipments));
    let orders = Router::new()
        .route(LIST, get(list))
        .route(ORDER, get(order))
        .route(EVENTS, get(events))
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .fallback(|| async { ApiError::not_found("there is nothing under this address") })
        .with_state(Arc::new(Database(pool)))
        .merge(shipments);
    let orders = api::guarded(orders, tokens, || ApiError::unauthorized().into_response());
    // The description holds nothing that the repository does not.
    let open = Router::new().route(DESCRIPTION, get(openapi::serve));
    open.merge(orders).layer(middleware::from_fn(limit)).layer(middleware::from_fn(metrics::count))
}

/// The addresses.
const LIST: &str = "/v1/orders";
const ORDER: &str = "/v1/orders/{orderId}";
const EVENTS: &str = "/v1/orders/{orderId}/events";
const SHIPMENTS: &str = "/v1/orders/{orderId}/shipments";
const DESCRIPTION: &str = "/v1/openapi.json";

/// Ends a request that takes too long. It holds no transaction, so it may be dropped at any point.
async fn limit(request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(REQUEST_MAX, next.run(request)).await;
    answer.unwrap_or_else(|_| ApiError::unavailable("timeout", "the answer took too long").into_response())
}

struct Database(PgPool);

impl Database {
    async fn connection(&self) -> Result<PoolConnection<Postgres>, ApiError> {
        self.0.acquire().await.map_err(|error| failed(&error.into()))
    }
}

fn failed(error: &riverlock_ledger::Error) -> ApiError {
    tracing::error!("orders cannot be read: {error}");
    match error {
        riverlock_ledger::Error::Inconsistent { .. } => ApiError::internal(),
        _ => ApiError::unavailable("database_unavailable", "the orders cannot be read now"),
    }
}

/// An order in each mode in which it exists.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct Orders {
    order_id: String,
    /// One, or two if the id exists in both modes; the live one first.
    orders: Vec<OrderView>,
}

/// A page of orders.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct OrderPage {
    /// The newest change first.
    orders: Vec<OrderSummary>,
    /// What to send as `before` for the next page; null on the last.
    next: Option<String>,
}

/// A page of what came about an order.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct EventPage {
    order_id: String,
    /// The latest record first.
    events: Vec<EventView>,
    /// What to send as `before` for the next page; null on the last.
    next: Option<String>,
}

/// What the newest snapshot says of an order. Nothing else of it is told, whatever more is stored.
#[derive(Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Details {
    /// The state that the order was in, as Digital River names it.
    state: Option<String>,
    /// `review_opened`, `blocked` or `passed`.
    fraud_state: Option<String>,
    /// ISO 4217 code.
    currency: Option<String>,
    /// What the customer pays, in `currency`: a decimal number as text.
    total_amount: Option<String>,
    /// Digital River's id of the customer.
    customer_id: Option<String>,
    /// Which Digital River company sells.
    selling_entity_id: Option<String>,
    /// The merchant's own id of the order.
    upstream_id: Option<String>,
}

/// Leaves of an order's details what [`Details`] names.
fn without_people(mut order: OrderView) -> Result<OrderView, ApiError> {
    let told = serde_json::from_value::<Details>(order.details.take()).and_then(serde_json::to_value);
    order.details = told.map_err(|error| {
        tracing::error!(order.id = order.order_id, "the details of order {} cannot be told: {error}", order.order_id);
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
    responses((status = 200, description = "The order, in each mode in which it exists", body = Orders), Refusals)
)]
async fn order(
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
    let orders: Vec<OrderView> = wanted.map(without_people).collect::<Result<_, _>>()?;
    if orders.is_empty() {
        return Err(unknown(mode));
    }
    Ok(Json(Orders { order_id: order_id.to_string(), orders }))
}

/// Orders, the newest change first.
///
/// An order that changes while somebody pages moves to the front: no order comes twice, and every order comes that did not
/// change since the first page. To have those that did as well, begin again without `before` afterwards, until an order
/// comes whose `changedAt` is not after that of the first order of the first page.
#[utoipa::path(
    get, path = LIST, operation_id = "listOrders", tag = "orders", security(("token" = [])),
    params(
        ("status" = Option<crate::domain::Status>, Query, description = "Only orders that stand there"),
        ("mode" = Option<String>, Query, description = "Only orders of this mode", pattern = "^(live|test)$"),
        ("before" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<i64>, Query, description = "How many at most; 50 unless said otherwise",
         minimum = 1, maximum = 500),
    ),
    responses((status = 200, description = "A page of orders", body = OrderPage), Refusals)
)]
async fn list(State(database): State<Arc<Database>>, RawQuery(query): RawQuery) -> Result<Json<OrderPage>, ApiError> {
    let mut params = Params::parse(query.as_deref())?;
    let before = params.before::<ListPosition>()?;
    let (filter, limit) = (ListFilter { status: params.status()?, mode: params.mode()?, before }, params.limit()?);
    params.end()?;
    let found = store::list(&mut *database.connection().await?, &filter, limit + 1).await;
    let (orders, next) = page(found.map_err(|error| failed(&error))?, limit, OrderSummary::position);
    Ok(Json(OrderPage { orders, next }))
}

/// What came about an order: every record with its outcome, the latest first.
#[utoipa::path(
    get, path = EVENTS, operation_id = "listOrderEvents", tag = "orders", security(("token" = [])),
    params(
        ("orderId" = String, Path, description = "Digital River's id of the order"),
        ("mode" = Option<String>, Query, description = "Only records of this mode", pattern = "^(live|test)$"),
        ("before" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<i64>, Query, description = "How many at most; 50 unless said otherwise",
         minimum = 1, maximum = 500),
    ),
    responses((status = 200, description = "A page of records", body = EventPage), Refusals)
)]
async fn events(
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

/// Cuts one row more than was asked for to a page, and says where the next begins.
fn page<T, C: Cursor>(mut rows: Vec<T>, limit: i64, position: impl Fn(&T) -> C) -> (Vec<T>, Option<String>) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|last| position(last).encode());
    (rows, next)
}

/// An id of the path. What can be no order's id is no order's.
fn order_id(path: Result<Path<String>, PathRejection>) -> Result<OrderId, ApiError> {
    let Path(id) = path.map_err(|_| ApiError::parameter("orderId", "is no UTF-8 text"))?;
    OrderId::parse(id).map_err(|_| unknown(None))
}

fn unknown(mode: Option<Mode>) -> ApiError {
    ApiError::not_found(match mode {
        None => "nothing is known of this order".to_owned(),
        Some(mode) => format!("nothing is known of this order in {mode} mode"),
    })
}
