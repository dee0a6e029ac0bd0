//! The order API for the merchant's programs: `GET /v1/orders/{orderId}` returns an order, `GET /v1/orders` lists orders, `GET
//! /v1/orders/{orderId}/events` lists the records of one. `GET /v1/openapi.json` returns the API's description.
//!
//! `POST /v1/orders/{orderId}/shipments` stores a shipment, which is reported to Digital River.
//!
//! The API is off unless configured, listens on loopback by default, and requires a bearer token. Reads take no row locks.
//! Names and addresses of customers are left out; the fulfillment system receives them in `fulfillment.requested`.

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

/// Size of the connection pool that read requests share; further requests wait for a connection.
const DATABASE_CONNECTIONS: u32 = 4;

/// `statement_timeout` of a request's statements.
const STATEMENT_MAX: Duration = Duration::from_secs(5);

/// Time limit of a request.
const REQUEST_MAX: Duration = Duration::from_secs(15);

/// `[processor.api]`: address and tokens of the order API.
pub type ApiConfig = api::ApiConfig<8085>;

/// The API cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Binding the listener failed.
    #[error("processor.api.listen: cannot listen on {address}: {source}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// The error of the operating system.
        source: std::io::Error,
    },
}

/// Starts the API, which serves until shutdown. Returns the bound address.
///
/// # Errors
/// When the configuration is invalid or the address cannot be bound.
pub async fn start(config: &ApiConfig, postgres: &PostgresConfig, context: &Context) -> Result<SocketAddr, StartError> {
    serve(config, &Tokens::new(config), postgres, context).await
}

/// Like [`start`], and reloads the tokens with `load` while the process runs. If the section is removed, the previous tokens
/// stay valid.
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
            tracing::info!("the order API uses the new token");
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
        .fallback(|| async { ApiError::not_found("no such resource") })
        .with_state(Arc::new(orders::Database(pool)))
        .merge(shipments);
    let orders = api::guarded(orders, tokens, || ApiError::unauthorized().into_response());
    // The description is public in the repository, so it needs no token.
    let open = Router::new().route(openapi::PATH, get(openapi::serve));
    open.merge(orders).layer(middleware::from_fn(limit)).layer(middleware::from_fn(metrics::count))
}

/// Enforces [`REQUEST_MAX`]. A request can be dropped at any point: PostgreSQL rolls back its transaction.
async fn limit(request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(REQUEST_MAX, next.run(request)).await;
    answer.unwrap_or_else(|_| ApiError::unavailable("timeout", "the request took too long").into_response())
}
