//! Orders over HTTP, for programs of our own: `GET /v1/orders/{orderId}` is an order, `GET /v1/orders` lists orders,
//! `GET /v1/orders/{orderId}/events` lists what came about one. `GET /v1/openapi.json` describes it.
//!
//! `POST /v1/orders/{orderId}/shipments` stores a shipment, which is reported to Digital River.
//!
//! Off unless configured, on loopback unless configured otherwise, and for holders of the token only. What reads never locks. Names and addresses of customers are left out: whoever ships has them from `fulfillment.requested`.

mod cursor;
mod metrics;
pub mod openapi;
mod orders;
mod params;
mod shipments;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use riverlock_ledger::PostgresConfig;
use riverlock_runtime::{
    ConfigError, Context,
    api::{self, ApiError, Tokens},
    reload,
};
use sqlx::PgPool;

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
        .route(shipments::PATH, get(shipments::list).post(shipments::create))
        .layer(DefaultBodyLimit::max(shipments::BODY_BYTES_MAX))
        .with_state(Arc::new(shipments));
    let orders = Router::new()
        .route(orders::LIST, get(orders::list))
        .route(orders::ORDER, get(orders::order))
        .route(orders::EVENTS, get(orders::events))
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .fallback(|| async { ApiError::not_found("there is nothing under this address") })
        .with_state(Arc::new(orders::Database(pool)))
        .merge(shipments);
    let orders = api::guarded(orders, tokens, || ApiError::unauthorized().into_response());
    // The description holds nothing that the repository does not.
    let open = Router::new().route(openapi::PATH, get(openapi::serve));
    open.merge(orders).layer(middleware::from_fn(limit)).layer(middleware::from_fn(metrics::count))
}

/// Ends a request that takes too long. It holds no transaction, so it may be dropped at any point.
async fn limit(request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(REQUEST_MAX, next.run(request)).await;
    answer.unwrap_or_else(|_| ApiError::unavailable("timeout", "the answer took too long").into_response())
}
