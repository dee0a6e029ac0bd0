//! Digital River's HTTP interface, as far as a receiver of webhooks needs it, in bounded memory.
//!
//! `/files`, `/file-links`, `/orders`, `/events`, `/webhooks`, `/fulfillments` and `/sandbox/…` require the confidential key.
//! `/links/…`, which customers open, and `/livez` do not.

use std::{
    future::{Future, IntoFuture as _},
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::StatusCode,
    middleware,
    routing::{get, post},
    serve::ListenerExt as _,
};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{
    clock::Clock,
    config::{Mode, SandboxConfig, TargetConfig},
    data::seed,
    events::EventStore,
    faults::Faults,
};

mod auth;
mod documents;
mod error;
mod events;
mod files;
mod fulfillments;
mod injection;
mod links;
mod objects;
mod params;
mod publish;
mod webhooks;

pub use crate::api::injection::calls::{ApiFault, ApiFaultRule};
pub use error::ApiError;
pub use fulfillments::{
    FULFILLMENTS_KEPT_MAX,
    progress::{CaptureOutcome, CaptureRule},
};
pub use webhooks::WEBHOOKS_MAX;

/// Largest request body.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// How long open connections may take to end after shutdown began.
const DRAIN_MAX: Duration = Duration::from_secs(3);

/// The state of the API, shared by all requests.
#[derive(Debug)]
pub struct Api {
    key: SecretString,
    mode: Mode,
    public_url: Option<Url>,
    clock: Clock,
    events: Arc<EventStore>,
    limiter: Mutex<auth::Limiter>,
    faults: Mutex<injection::downloads::Injector>,
    misbehaviour: Mutex<injection::calls::Misbehaviour>,
    webhooks: Mutex<webhooks::Webhooks>,
    /// Retries and secrets of deliveries to registered webhooks; its address is not used.
    target: TargetConfig,
    webhook_failures_max: u32,
    publisher: publish::Publisher,
    fulfillments: Mutex<fulfillments::orders::Fulfillments>,
    /// How captures end.
    captures: Mutex<Vec<CaptureRule>>,
    capture_delay: Duration,
    objects: Mutex<objects::Objects>,
    salt: u64,
    ids: AtomicU64,
}

impl Api {
    /// A new API. `clock` decides what has expired and when objects were created.
    pub fn new(config: &SandboxConfig, clock: Clock) -> Arc<Self> {
        let now = clock.now();
        let rate = config.rate_limit_per_second.map_or_else(|| config.mode.rate_limit_per_second(), NonZeroU32::get);
        Arc::new(Self {
            key: config.api_key.clone(),
            mode: config.mode,
            public_url: config.public_url.clone(),
            events: Arc::new(EventStore::new()),
            limiter: Mutex::new(auth::Limiter::new(rate, now)),
            faults: Mutex::new(injection::downloads::Injector::new(config.faults.clone())),
            misbehaviour: Mutex::default(),
            webhooks: Mutex::default(),
            target: config.target.clone(),
            webhook_failures_max: config.webhook_failures_max.get(),
            publisher: publish::Publisher::default(),
            fulfillments: Mutex::default(),
            captures: Mutex::default(),
            capture_delay: config.capture_delay,
            objects: Mutex::default(),
            // Ids differ from those of earlier runs, which clients may have stored.
            salt: now.timestamp_micros().cast_unsigned(),
            ids: AtomicU64::new(0),
            clock,
        })
    }

    /// The events that `GET /events` lists; the sender records them here.
    pub fn events(&self) -> Arc<EventStore> {
        Arc::clone(&self.events)
    }

    /// Publishes an event that the player delivers itself: only its order becomes known.
    ///
    /// # Errors
    /// When the body is not an event.
    pub fn learn(self: &Arc<Self>, body: &bytes::Bytes) -> Result<(), ApiError> {
        publish::publish(self, body.clone(), true).map(drop)
    }

    /// Sets the faults of the file API, or removes them; counts of earlier attempts are reset.
    pub fn set_faults(&self, faults: Faults) {
        *lock(&self.faults) = injection::downloads::Injector::new(faults);
    }

    /// A new id.
    fn next_id(&self) -> uuid::Uuid {
        let number = self.ids.fetch_add(1, Ordering::Relaxed);
        seed::uuid(&mut seed::rng(self.salt, number))
    }
}

/// All routes.
pub fn router(api: Arc<Api>) -> Router {
    let limited = Router::new()
        .route("/orders", get(objects::orders))
        .route("/orders/{id}", get(objects::order))
        .route("/files", get(objects::files))
        .route("/files/{id}", get(files::metadata))
        .route("/files/{id}/content", get(files::content))
        .route("/file-links", post(links::create))
        .route("/events", get(events::list))
        .route("/events/{id}", get(events::one))
        .route("/webhooks", get(webhooks::list).post(webhooks::create))
        .route("/webhooks/{id}", get(webhooks::one).patch(webhooks::change).delete(webhooks::remove))
        .route("/fulfillments", get(fulfillments::list).post(fulfillments::create))
        .route("/fulfillments/{id}", get(fulfillments::one).post(fulfillments::change))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&api), injection::calls::layer))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&api), auth::limit));
    Router::new()
        .route("/sandbox/faults", get(injection::downloads::show).post(injection::downloads::replace))
        .route("/sandbox/api-faults", get(injection::calls::show).post(injection::calls::replace))
        .route("/sandbox/captures", get(fulfillments::progress::show).post(fulfillments::progress::replace))
        .route("/sandbox/events", post(publish::create))
        .merge(limited)
        .route_layer(middleware::from_fn_with_state(Arc::clone(&api), auth::require_key))
        .route("/links/{file_id}/{expires}/{code}", get(links::open))
        .route("/livez", get(|| async { StatusCode::OK }))
        .fallback(|| async { ApiError::not_found("path", "no such path") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(middleware::from_fn_with_state(Arc::clone(&api), injection::calls::request_id))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(api)
}

/// Serves the API on `listener` until `shutdown` resolves; then open connections have three seconds to end.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    api: Arc<Api>,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot turn Nagle's algorithm off");
        }
    });
    let stop = CancellationToken::new();
    let server = axum::serve(listener, router(api)).with_graceful_shutdown(stop.clone().cancelled_owned());
    let mut server = std::pin::pin!(server.into_future());
    tokio::select! {
        ended = &mut server => return ended.context("the sandbox's API failed"),
        () = shutdown => stop.cancel(),
    }
    match tokio::time::timeout(DRAIN_MAX, server).await {
        Ok(ended) => ended.context("the sandbox's API failed"),
        Err(_elapsed) => {
            tracing::info!("closing connections that are still open after {DRAIN_MAX:?}");
            Ok(())
        }
    }
}

/// Locks a mutex whose holders never leave an incomplete change, so that poisoning can be ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod contract_tests;

#[cfg(test)]
mod tests;
