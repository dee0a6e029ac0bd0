//! Single rounds of the periodic jobs, without the wait between them.
//!
//! Jobs that run every few seconds or minutes for years must not exhaust anything: sequence numbers, rows, connections,
//! file descriptors, memory. A test runs as many rounds as otherwise take months. Nothing else uses this module.

use std::{collections::HashMap, sync::Arc};

use rdkafka::error::KafkaError;
use riverlock_runtime::{Component, Context, kafka::KafkaConfig};
use tokio_util::sync::CancellationToken;

use crate::{
    Error, PostgresConfig,
    consumer::{assignment::Assignment, lag, restore_check},
    relay,
};

/// Publishes pages of both queues of the relay.
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

/// Compares a consumer's offsets with those in PostgreSQL.
///
/// # Errors
/// When PostgreSQL fails.
pub async fn offset_comparisons(consumer: &'static str, postgres: &PostgresConfig, rounds: usize) -> Result<(), Error> {
    let shared = shared(HashMap::new());
    let mut connection = None;
    for _ in 0..rounds {
        connection = Some(restore_check::look(consumer, postgres, &shared, connection.take()).await?);
    }
    Ok(())
}

/// Measures a consumer's lag. Blocks.
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

fn shared(topics: HashMap<String, i16>) -> Arc<Assignment> {
    Arc::new(Assignment::new(topics, 1, CancellationToken::new()))
}
