//! ingest: takes Digital River's webhooks and answers 202 once Kafka has them.
//!
//! It authenticates, checks that the body is an event at all, writes the exact bytes to the topic of the event's type with
//! the order's id as key, and answers inside a deadline, whatever Kafka does: 202 only when all in-sync replicas have the
//! event, else a refusal that makes Digital River send it again. It knows no database and reads nothing but the envelope.
//! Duplicates are not its concern: a retry of an event whose acknowledgement came too late is a second record, and whoever
//! consumes the topics goes by the event's id.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::Router;
use riverlock_runtime::{ConfigError, Context, Shutdown, kafka::KafkaConfig};
use tokio::net::TcpListener;

use crate::{
    endpoints::Endpoints,
    floods::Floods,
    handler::{Ingest, handle},
    metrics::EndpointMetrics,
    producer::Producer,
    quarantine::Quarantine,
    reload::{Loaded, Reloader},
    token_endpoint::TokenEndpoint,
};

mod address;
mod arrival;
mod authentication;
mod body;
mod breaker;
pub mod config;
mod credentials;
mod endpoints;
mod first_byte;
mod floods;
mod guesses;
mod handler;
pub mod metrics;
mod producer;
mod quarantine;
mod refusal;
mod reload;
mod reports;
mod server;
pub mod signature;
mod supervisor;
mod tls;
mod token;
mod token_endpoint;
mod waiting;

pub use config::IngestConfig;
pub use reload::Load;

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
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The process cannot be told by SIGHUP to read its configuration again.
    #[error("SIGHUP cannot be listened for")]
    Signal(#[source] std::io::Error),
    /// The Kafka client cannot be made: a property is wrong.
    #[error("the Kafka producer cannot be made")]
    Producer(#[source] rdkafka::error::KafkaError),
}

/// A running ingest.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Where it listens; says which port was given when the configured one is 0.
    pub address: SocketAddr,
}

/// Starts ingest and returns; it runs until `context.shutdown` asks it to end.
///
/// From the start it answers, with 503 until Kafka has taken a first record; then the component `ingest` is ready. When it is
/// asked to end it takes no more connections, lets requests end (3 s) and waits for Kafka's delivery reports (5 s).
///
/// # Errors
/// When the configuration is wrong, the address cannot be listened on or the Kafka client cannot be made. That Kafka cannot
/// be reached is no error: it may come.
pub async fn start(config: IngestConfig, kafka: &KafkaConfig, context: &Context) -> Result<Server, Error> {
    run(config, None, kafka, context).await
}

/// As [`start`], and reads the configuration again with `load` on SIGHUP and every `reload_interval`. Endpoints and their
/// secrets change while it runs; the address to listen on and the limits need a restart.
///
/// # Errors
/// As [`start`], and when SIGHUP cannot be listened for.
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
    let loaded = Loaded::new(config.clone())?;
    let tls = Arc::new(ArcSwapOption::from(loaded.tls.clone().map(Arc::new)));
    metrics::describe();
    let producer = Arc::new(Producer::new(kafka, &config.limits).map_err(Error::Producer)?);
    let quarantine = Quarantine::new(config.quarantine.clone(), kafka, std::time::Instant::now());
    let quarantine = Arc::new(quarantine.map_err(Error::Producer)?);
    let unlistenable = |source| Error::Listen { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(unlistenable)?;
    let address = listener.local_addr().map_err(unlistenable)?;
    let ingest = Arc::new(Ingest {
        endpoints: ArcSwap::from_pointee(Endpoints::new(&config, context.clock.now())),
        unmatched: Arc::new(EndpointMetrics::new(config::NO_ENDPOINT, false, [])),
        limits: config.limits.clone(),
        topics: kafka.topics(),
        producer: Arc::clone(&producer),
        context: context.clone(),
        tls: Arc::clone(&tls),
        tokens: TokenEndpoint::new(),
        quarantine: Arc::clone(&quarantine),
        floods: Floods::default(),
    });
    let (shutdown, topics, soft) = (context.shutdown.clone(), kafka.topics(), context.shutdown.soft().clone());
    if let Some(load) = load {
        let reloader = Reloader::new(load, Arc::clone(&ingest), loaded).map_err(Error::Signal)?;
        context.shutdown.spawn_work(reloader.run(soft.clone()));
    }
    let router = Router::new().fallback(handle).with_state(ingest);
    let component = context.health.register("ingest");
    context.shutdown.spawn("ingest", async move {
        tokio::join!(
            server::serve(listener, router, tls, config.limits, shutdown),
            supervisor::supervise(Arc::clone(&producer), topics, component, soft),
        );
        tokio::join!(producer.close(), quarantine.close());
        Ok::<_, Infallible>(())
    });
    tracing::info!(%address, "ingest listens on {address}");
    Ok(Server { address })
}

/// Serves a router behind ingest's own listener until the shutdown, so that a benchmark can compare other work with ingest's.
pub async fn serve(listener: TcpListener, router: Router, limits: config::LimitsConfig, shutdown: Shutdown) {
    server::serve(listener, router, Arc::default(), limits, shutdown).await;
}
