//! ingest: takes Digital River's webhooks and answers 202 once Kafka has them.
//!
//! It authenticates, checks that the body is an event at all, writes the exact bytes to the topic of the event's type with
//! the order's id as key, and answers inside a deadline, whatever Kafka does: 202 only when all in-sync replicas have the
//! event, else a refusal that makes Digital River send it again. It knows no database and reads nothing but the envelope.
//! Duplicates are not its concern: a retry of an event whose acknowledgement came too late is a second record, and whoever
//! consumes the topics goes by the event's id.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use axum::Router;
use riverlock_runtime::{ConfigError, Context, Shutdown, kafka::KafkaConfig};
use tokio::net::TcpListener;

use crate::{
    endpoints::Endpoints,
    handler::{Ingest, handle},
    metrics::EndpointMetrics,
    producer::Producer,
};

mod authentication;
mod body;
mod breaker;
pub mod config;
mod endpoints;
mod handler;
pub mod metrics;
mod producer;
mod refusal;
mod server;
pub mod signature;
mod supervisor;

pub use config::IngestConfig;

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
    config.validate()?;
    metrics::describe();
    let producer = Arc::new(Producer::new(kafka, &config.limits).map_err(Error::Producer)?);
    let unlistenable = |source| Error::Listen { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(unlistenable)?;
    let address = listener.local_addr().map_err(unlistenable)?;
    let ingest = Ingest {
        endpoints: Endpoints::new(&config.endpoints, context.clock.now()),
        unmatched: Arc::new(EndpointMetrics::new(config::NO_ENDPOINT, false, [])),
        limits: config.limits.clone(),
        topics: kafka.topics(),
        producer: Arc::clone(&producer),
        context: context.clone(),
    };
    let router = Router::new().fallback(handle).with_state(Arc::new(ingest));
    let component = context.health.register("ingest");
    let (shutdown, topics) = (context.shutdown.clone(), kafka.topics());
    context.shutdown.spawn("ingest", async move {
        let soft = shutdown.soft().clone();
        tokio::join!(
            server::serve(listener, router, config.limits, shutdown),
            supervisor::supervise(Arc::clone(&producer), topics, component, soft),
        );
        producer.close().await;
        Ok::<_, Infallible>(())
    });
    tracing::info!(%address, "ingest listens on {address}");
    Ok(Server { address })
}

/// Serves a router behind ingest's own listener until the shutdown, so that a benchmark can compare other work with ingest's.
pub async fn serve(listener: TcpListener, router: Router, limits: config::LimitsConfig, shutdown: Shutdown) {
    server::serve(listener, router, limits, shutdown).await;
}
