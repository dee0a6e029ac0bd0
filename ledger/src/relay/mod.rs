//! Publishes from PostgreSQL to Kafka: the outbox to the fulfillment topic, dead letters to theirs.
//!
//! Delivery is at least once, with a stable id per message. For each of the two queues, one process at a time
//! publishes, holding a lock. Messages of one order are published in the order in which they were written. No
//! transaction is open during requests to Kafka.
//!
//! A failure does not block anything else: the two queues share no task, connection, lock or producer; an order with a
//! failed message waits while others are published; and a message that Kafka rejects permanently is parked, together
//! with all later ones of its order, until `riverlock outbox retry` returns them.

mod error;
mod held;
mod letters;
mod messages;
mod publisher;
mod watch;

use std::{sync::Arc, time::Duration};

use rdkafka::error::KafkaError;
use riverlock_runtime::{ConsumerGuard, Context, kafka::KafkaConfig};

use crate::{PostgresConfig, metrics};

use self::{letters::Letters, messages::Messages, publisher::Publisher};
pub use error::RelayError;

/// Time without a heartbeat after which a publishing task counts as stuck; longer than all its timeouts.
const STUCK_AFTER: Duration = Duration::from_secs(180);

/// Publishes until the shutdown. Errors are logged and retried.
///
/// # Errors
/// When a Kafka client cannot be created.
pub async fn run(kafka: KafkaConfig, postgres: PostgresConfig, context: Context) -> Result<(), KafkaError> {
    metrics::describe_relay();
    let topics = kafka.topics();
    let register = |name| context.health.register_beating(name, STUCK_AFTER);
    let (messages, letters) = (register("relay"), register("dead-letter-relay"));
    let watch = watch::Watch {
        postgres: postgres.clone(),
        client: Arc::new(ConsumerGuard::create(&kafka.client())?),
        topics: [(topics.fulfillment(), messages.part("topic")), (topics.dead_letter(), letters.part("topic"))],
        component: messages.part_beating("watch", STUCK_AFTER),
    };
    let messages = Publisher::new(Messages::default(), topics.fulfillment(), &kafka, &postgres, messages)?;
    let letters = Publisher::new(Letters, topics.dead_letter(), &kafka, &postgres, letters)?;
    let soft = context.shutdown.soft();
    let ((), (), ()) = tokio::join!(messages.run(soft), letters.run(soft), watch.run(soft));
    Ok(())
}

/// Publishes pages of both queues alternately, without waiting.
pub(crate) async fn rounds(
    kafka: &KafkaConfig,
    postgres: &PostgresConfig,
    context: &Context,
    rounds: usize,
) -> Result<(), RelayError> {
    let topics = kafka.topics();
    let register = |name| context.health.register_beating(name, STUCK_AFTER);
    let messages = Messages::default();
    let mut messages = Publisher::new(messages, topics.fulfillment(), kafka, postgres, register("relay"))?;
    let mut letters = Publisher::new(Letters, topics.dead_letter(), kafka, postgres, register("dead-letter-relay"))?;
    let mut connections = [postgres.connect_as("relay").await?, postgres.connect_as("relay").await?];
    for _ in 0..rounds {
        messages.round(&mut connections[0]).await?;
        letters.round(&mut connections[1]).await?;
    }
    Ok(())
}
