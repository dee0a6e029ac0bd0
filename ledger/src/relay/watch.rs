//! Exports the size and age of the queues, and checks the topics. Runs in every process: metrics of the publishing
//! process alone would stop changing when that process hangs.

use std::{sync::Arc, time::Duration};

use metrics::gauge;
use rdkafka::{
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
};
use riverlock_runtime::{Component, ConsumerGuard};
use sqlx::PgConnection;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{Error, PostgresConfig, metrics as names, postgres::bounded};

/// Time between two updates of the metrics.
const INTERVAL: Duration = Duration::from_secs(5);
/// Time between two checks of the topics; the next check is sooner if one failed.
const TOPIC_INTERVAL: Duration = Duration::from_secs(60);
/// Longest wait for Kafka's answer.
const TOPIC_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit of the counts.
const COUNT_MAX: i64 = 100_000;

/// Connections, and the components whose health is reported.
pub(super) struct Watch {
    pub(super) postgres: PostgresConfig,
    pub(super) client: Arc<ConsumerGuard>,
    /// The topics that messages are published to.
    pub(super) topics: [(String, Component); 2],
    pub(super) component: Component,
}

impl Watch {
    /// Watches until the shutdown.
    pub(super) async fn run(self, soft: &CancellationToken) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut connection, mut looked_at): (Option<PgConnection>, Option<Instant>) = (None, None);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = soft.cancelled() => return,
            }
            self.component.beat();
            match bounded(self.postgres.answer_limit(), self.show(connection.take())).await {
                Ok(usable) => {
                    connection = Some(usable);
                    self.component.ready();
                }
                Err(error) => self.component.not_ready(error.to_string()),
            }
            if looked_at.is_none_or(|at| at.elapsed() >= TOPIC_INTERVAL) {
                looked_at = self.look_at_topics().await.then(Instant::now);
            }
        }
    }

    /// Sets the metrics and returns the connection.
    async fn show(&self, connection: Option<PgConnection>) -> Result<PgConnection, Error> {
        let mut connection = match connection {
            Some(connection) => connection,
            None => self.postgres.connect_as("relay").await?,
        };
        let row = sqlx::query!(
            r#"-- relay_waiting
               SELECT (SELECT count(*) FROM (SELECT FROM outbox LIMIT $1) q) AS "messages!",
                      (SELECT extract(epoch FROM clock_timestamp() - created_at)::float8
                       FROM outbox ORDER BY message_id LIMIT 1) AS messages_age,
                      (SELECT count(*) FROM (SELECT FROM outbox_parked LIMIT $1) q) AS "messages_parked!",
                      (SELECT count(*) FROM (
                          SELECT FROM dead_letters WHERE published_at IS NULL AND parked_at IS NULL LIMIT $1
                      ) q) AS "letters!",
                      (SELECT extract(epoch FROM clock_timestamp() - attempted_at)::float8 FROM dead_letters
                       WHERE published_at IS NULL AND parked_at IS NULL ORDER BY created_at LIMIT 1) AS letters_age,
                      (SELECT count(*) FROM (SELECT FROM dead_letters WHERE parked_at IS NOT NULL LIMIT $1) q)
                          AS "letters_parked!""#,
            COUNT_MAX
        )
        .fetch_one(&mut connection)
        .await?;
        for (source, waiting, age, parked) in [
            ("outbox", row.messages, row.messages_age, row.messages_parked),
            ("dead_letters", row.letters, row.letters_age, row.letters_parked),
        ] {
            gauge!(names::RELAY_WAITING, "source" => source).set(waiting as f64);
            // Clocks of two hosts may differ.
            gauge!(names::RELAY_AGE, "source" => source).set(age.unwrap_or_default().max(0.0));
            gauge!(names::RELAY_PARKED, "source" => source).set(parked as f64);
        }
        Ok(connection)
    }

    /// Reports for each topic whether messages can be published to it; returns `true` if that is so for all.
    async fn look_at_topics(&self) -> bool {
        let (client, names) = (Arc::clone(&self.client), self.topics.clone().map(|(name, _)| name));
        let asked = tokio::task::spawn_blocking(move || names.map(|name| leaderless(&client, &name)));
        let Ok(found) = asked.await else { return false };
        let mut all_well = true;
        for ((name, component), found) in self.topics.iter().zip(found) {
            all_well &= matches!(found, Ok(None));
            match found {
                Ok(None) => component.ready(),
                Ok(Some(partition)) => component.not_ready(format!("{name}[{partition}] has no leader")),
                Err(error) => component.not_ready(format!("{name}: {error}")),
            }
        }
        all_well
    }
}

/// Returns a partition of the topic without a leader, if there is one.
fn leaderless(client: &BaseConsumer, topic: &str) -> Result<Option<i32>, KafkaError> {
    let metadata = client.fetch_metadata(Some(topic), TOPIC_TIMEOUT)?;
    let Some(topic) = metadata.topics().first() else {
        return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition));
    };
    if let Some(error) = topic.error() {
        return Err(KafkaError::MetadataFetch(error.into()));
    }
    if topic.partitions().is_empty() {
        return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition));
    }
    Ok(topic.partitions().iter().find(|partition| partition.leader() < 0).map(rdkafka::metadata::MetadataPartition::id))
}
