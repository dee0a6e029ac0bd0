#![doc = include_str!("../README.md")]

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::Router;
use riverlock_runtime::{Component, ConfigError, Context, Shutdown, kafka::KafkaConfig, reload::Reloader};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    auth::guesses::Guesses,
    endpoints::Endpoints,
    http::known::KnownAddresses,
    kafka::{producer::Producer, supervisor::Supervisor},
    metrics::EndpointMetrics,
    readiness::{Obstacle, Readiness},
    reload::{Applier, LoadedConfig},
    webhook::{floods::Floods, handler::handle, quarantine::Quarantine, reading::BodyReads, state::Ingest},
};

pub mod auth;
pub mod config;
mod endpoints;
mod expiry;
mod hash;
mod http;
mod kafka;
pub mod metrics;
mod readiness;
mod refusal;
mod reload;
mod webhook;

pub use config::IngestConfig;
pub use reload::{Configuration, Load};

/// Why ingest cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address cannot be listened on.
    #[error("ingest cannot listen on {address}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The handler for SIGHUP, which reloads the configuration, cannot be installed.
    #[error("the handler for SIGHUP cannot be installed")]
    Signal(#[source] std::io::Error),
    /// The Kafka client cannot be created: a property is invalid.
    #[error("the Kafka producer cannot be created")]
    Producer(#[source] rdkafka::error::KafkaError),
}

/// A running ingest.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// The address it listens on, with the assigned port if the configured port is 0.
    pub address: SocketAddr,
}

/// Starts ingest and returns; it runs until `context.shutdown` is triggered.
///
/// Requests are answered from the start, with 503 until Kafka has acknowledged a first record; then the component `ingest`
/// is ready. On shutdown the component becomes not ready at once, and connections are accepted for `shutdown_delay` longer.
/// Then ingest waits for open requests (3 s) and for Kafka's delivery reports (5 s).
///
/// # Errors
/// When the configuration is invalid, the address cannot be listened on or the Kafka client cannot be created. An
/// unreachable Kafka is not an error, because it may become available later.
pub async fn start(config: IngestConfig, kafka: &KafkaConfig, context: &Context) -> Result<Server, Error> {
    run(config, None, kafka, context).await
}

/// Like [`start`], and reloads the configuration with `load` on SIGHUP and every `reload_interval`. Endpoints and their
/// secrets change at run time; changes of the listen address and the limits need a restart.
///
/// # Errors
/// As [`start`], and when the handler for SIGHUP cannot be installed.
pub async fn start_reloading(
    config: IngestConfig,
    load: Arc<Load>,
    kafka: &KafkaConfig,
    context: &Context,
) -> Result<Server, Error> {
    run(config, Some(load), kafka, context).await
}

async fn run(
    config: IngestConfig,
    load: Option<Arc<Load>>,
    kafka: &KafkaConfig,
    context: &Context,
) -> Result<Server, Error> {
    config.validate()?;
    let loaded = LoadedConfig::at_start(config.clone(), load.as_deref())?;
    metrics::describe();
    let unlistenable = |source| Error::Listen { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(unlistenable)?;
    let address = listener.local_addr().map_err(unlistenable)?;
    let ingest = Arc::new(assemble(&config, &loaded, kafka, context).map_err(Error::Producer)?);
    if let Some(load) = load {
        let beat = context.health.register_beating("ingest-configuration", reload::silence_max(&config));
        let read = Arc::new(move || load().and_then(LoadedConfig::new));
        let reloader =
            Reloader::new(read, config.reload_interval, Some(loaded.clone()), beat).map_err(Error::Signal)?;
        let (mut applier, soft) = (Applier::new(Arc::clone(&ingest), loaded), context.shutdown.soft().clone());
        context.shutdown.spawn("ingest-configuration", async move {
            reloader.run(|found| applier.handle(found), &soft).await;
            Ok::<_, Infallible>(())
        });
    }
    let component = context.health.register_beating("ingest", kafka::supervisor::SILENCE_MAX);
    serve_until_end(listener, ingest, config.limits, kafka, component);
    tracing::info!(%address, "ingest listens on {address}");
    Ok(Server { address })
}

/// Creates the state that all requests share.
fn assemble(
    config: &IngestConfig,
    loaded: &LoadedConfig,
    kafka: &KafkaConfig,
    context: &Context,
) -> Result<Ingest, rdkafka::error::KafkaError> {
    let (health, now) = (&context.health, std::time::Instant::now());
    let reports = health.register_beating("ingest-reports", kafka::reports::SILENCE_MAX);
    let producer = Producer::new(kafka, &config.limits, reports)?;
    let reports = health.register_beating("ingest-quarantine-reports", kafka::reports::SILENCE_MAX);
    let quarantine = Quarantine::new(config.quarantine.clone(), kafka, reports, now)?;
    Ok(Ingest {
        endpoints: ArcSwap::from_pointee(Endpoints::new(config, context.clock.now())),
        unmatched: Arc::new(EndpointMetrics::new(config::NO_ENDPOINT, false, [])),
        limits: config.limits.clone(),
        topics: kafka.topics(),
        producer: Arc::new(producer),
        context: context.clone(),
        tls: Arc::new(ArcSwapOption::from(loaded.tls.clone().map(Arc::new))),
        token_guesses: Guesses::new(),
        quarantine: Arc::new(quarantine),
        floods: Floods::default(),
        reading: BodyReads::new(&config.limits, metrics::PROCESS.requests_evicted.clone()),
        known: KnownAddresses::new(config.limits.known_for, now),
    })
}

/// Starts the tasks until requests have ended: the listener, the supervision of the producer and the topics, and the
/// monitoring of expiries.
fn serve_until_end(
    listener: TcpListener,
    ingest: Arc<Ingest>,
    limits: config::LimitsConfig,
    kafka: &KafkaConfig,
    component: Component,
) {
    let (shutdown, served) = (ingest.context.shutdown.clone(), CancellationToken::new());
    let readiness = Arc::new(Readiness::new(component));
    let supervisor = Supervisor {
        producer: Arc::clone(&ingest.producer),
        kafka: kafka.clone(),
        readiness: Arc::clone(&readiness),
        not_ready_after: limits.not_ready_after,
    };
    let expiries = expiry::watch(Arc::clone(&ingest));
    let end = served.clone();
    shutdown.spawn("ingest-supervisor", async move {
        tokio::join!(supervisor.run(end.clone()), end.run_until_cancelled(expiries));
        Ok::<_, Infallible>(())
    });
    let soft = shutdown.soft().clone();
    shutdown.clone().spawn("ingest", async move {
        let router = Router::new().fallback(handle).with_state(Arc::clone(&ingest));
        let (tls, policy) = (Arc::clone(&ingest.tls), Arc::clone(&ingest));
        let report_shutdown = async {
            soft.cancelled().await;
            readiness.set(Obstacle::ShuttingDown, Some("shutting down".to_owned()));
        };
        tokio::join!(http::server::serve(listener, router, tls, limits, policy, shutdown), report_shutdown);
        served.cancel();
        tokio::join!(ingest.producer.close(), ingest.quarantine.close());
        Ok::<_, Infallible>(())
    });
}

/// Serves a router behind ingest's listener until shutdown, so that a benchmark can compare other handlers with ingest's.
pub async fn serve(listener: TcpListener, router: Router, limits: config::LimitsConfig, shutdown: Shutdown) {
    http::server::serve(listener, router, Arc::default(), limits, Arc::new(http::server::AcceptAll), shutdown).await;
}
