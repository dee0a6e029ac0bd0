//! One round of each periodic job, without the wait between two rounds.
//!
//! Jobs that run every few seconds or minutes for years must not use anything up: numbers of a sequence, rows, connections,
//! file descriptors, memory. A test makes as many rounds as otherwise take months. Nothing else uses this module.

use std::{collections::HashMap, sync::Arc};

use rdkafka::error::KafkaError;
use riverlock_runtime::{Component, Context, kafka::KafkaConfig};
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use crate::{
    Error, PostgresConfig,
    audit::{AuditError, running},
    context::Shared,
    dead_letters, lag, relay, watch,
};

/// The consumers with the topics that each reads.
pub type Consumers = Vec<(&'static str, Vec<String>)>;

/// Runs of the running audit that find nothing new, as one process makes them.
///
/// # Errors
/// When Kafka or PostgreSQL does not answer.
pub async fn audit_runs(
    kafka: &KafkaConfig,
    connection: &mut PgConnection,
    consumers: &Consumers,
    rounds: usize,
) -> Result<(), AuditError> {
    running::runs(kafka, connection, consumers, rounds).await
}

/// What such a run asks and writes in PostgreSQL, without Kafka.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn audit_statements(
    connection: &mut PgConnection,
    consumers: &Consumers,
    rounds: usize,
) -> Result<(), AuditError> {
    for _ in 0..rounds {
        running::statements(connection, consumers).await?;
    }
    Ok(())
}

/// Pages of both queues of the relay.
///
/// # Errors
/// When Kafka or PostgreSQL does not answer.
pub async fn relay_pages(
    kafka: &KafkaConfig,
    postgres: &PostgresConfig,
    context: &Context,
    rounds: usize,
) -> Result<(), relay::RelayError> {
    relay::rounds(kafka, postgres, context, rounds).await
}

/// Comparisons of a consumer's offsets with those in PostgreSQL.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn offset_comparisons(consumer: &'static str, postgres: &PostgresConfig, rounds: usize) -> Result<(), Error> {
    let shared = shared(HashMap::new());
    let mut connection = None;
    for _ in 0..rounds {
        connection = Some(watch::look(consumer, postgres, &shared, connection.take()).await?);
    }
    Ok(())
}

/// Measurements of a consumer's lag. Blocks.
///
/// # Errors
/// When Kafka does not answer.
pub fn lag_measurements(
    kafka: &KafkaConfig,
    topics: HashMap<String, i16>,
    component: &Component,
    rounds: usize,
) -> Result<(), KafkaError> {
    let shared = shared(topics);
    for id in shared.names.keys() {
        shared.start((*id, 0), None);
    }
    let lag = lag::Lag {
        consumer: "test",
        client: kafka.client().create()?,
        shared,
        reading: component.clone(),
        component: component.clone(),
    };
    (0..rounds).try_for_each(|_| lag.round())
}

/// Counts of dead letters and conflicts.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn letter_counts(postgres: &PostgresConfig, rounds: usize) -> Result<(), Error> {
    let mut connection = None;
    for _ in 0..rounds {
        dead_letters::show(postgres, &mut connection).await?;
    }
    Ok(())
}

fn shared(topics: HashMap<String, i16>) -> Arc<Shared> {
    Arc::new(Shared::new(topics, 1, CancellationToken::new()))
}
