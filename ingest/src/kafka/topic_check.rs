//! Checks that the topics that ingest writes to exist, and that acknowledged events are replicated safely in them.

use std::time::Duration;

use rdkafka::{
    ClientContext,
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    client::{Client, DefaultClientContext},
    error::{KafkaError, RDKafkaErrorCode},
};
use riverlock_runtime::kafka::KafkaConfig;

/// Timeout of each request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Metadata of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) partitions: usize,
    /// Replicas of the partition that has the fewest.
    pub(crate) replicas: usize,
}

/// Why a topic cannot be written to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TopicError {
    #[error("Kafka does not return the metadata of topic {topic}: {error}")]
    NoAnswer { topic: String, error: KafkaError },
    #[error("topic {topic} is missing (`riverlock setup` creates it)")]
    Missing { topic: String },
    #[error("Kafka does not let ingest describe topic {topic}: {code}")]
    Hidden { topic: String, code: RDKafkaErrorCode },
    #[error("{0}")]
    RequestFailed(String),
}

/// Fetches the metadata of topics; blocks.
///
/// # Errors
/// When Kafka does not answer, or a topic is missing or hidden.
pub(crate) fn topics<C: ClientContext>(client: &Client<C>, names: &[String]) -> Result<Vec<Topic>, TopicError> {
    names.iter().map(|name| topic(client, name)).collect()
}

fn topic<C: ClientContext>(client: &Client<C>, name: &str) -> Result<Topic, TopicError> {
    let metadata = client.fetch_metadata(Some(name), REQUEST_TIMEOUT);
    let metadata = metadata.map_err(|error| TopicError::NoAnswer { topic: name.to_owned(), error })?;
    let missing = || TopicError::Missing { topic: name.to_owned() };
    let topic = metadata.topics().iter().find(|topic| topic.name() == name).ok_or_else(missing)?;
    match topic.error().map(RDKafkaErrorCode::from) {
        None => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => return Err(missing()),
        Some(code) => return Err(TopicError::Hidden { topic: name.to_owned(), code }),
    }
    let partitions = topic.partitions();
    let replicas = partitions.iter().map(|partition| partition.replicas().len()).min().ok_or_else(missing)?;
    Ok(Topic { name: name.to_owned(), partitions: partitions.len(), replicas })
}

/// Risks of losing acknowledged events in these topics, as sentences. They are only logged; no event is rejected because of
/// them.
pub(crate) async fn risks(kafka: &KafkaConfig, topics: &[Topic]) -> Vec<String> {
    let mut risks = Vec::new();
    let names = |risky: &dyn Fn(&Topic) -> bool| -> Option<String> {
        let names: Vec<&str> = topics.iter().filter(|topic| risky(topic)).map(|topic| topic.name.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    if let Some(names) = names(&|topic| usize::try_from(kafka.partitions) != Ok(topic.partitions)) {
        risks.push(format!(
            "kafka.partitions is {}, but these topics have a different number of partitions: {names}",
            kafka.partitions
        ));
    }
    if let Some(names) = names(&|topic| topic.replicas < 2) {
        risks.push(format!(
            "acknowledged events of {names} are on a single broker, and are lost with it; use three brokers and kafka.replication_factor = 3"
        ));
    }
    let replicated: Vec<&str> =
        topics.iter().filter(|topic| topic.replicas > 1).map(|topic| topic.name.as_str()).collect();
    if !replicated.is_empty() {
        match min_insync_of_one(kafka, &replicated).await {
            Ok(names) if names.is_empty() => {}
            Ok(names) => risks.push(format!(
                "min.insync.replicas is 1 for {}: events are acknowledged when only one broker has them, and are lost with it",
                names.join(", ")
            )),
            // Some brokers do not support this request or do not authorize it.
            Err(error) => tracing::info!("Kafka does not return min.insync.replicas of the raw topics: {error}"),
        }
    }
    risks
}

/// The topics for which a single replica is enough for an acknowledgement.
async fn min_insync_of_one(kafka: &KafkaConfig, names: &[&str]) -> Result<Vec<String>, String> {
    let admin: AdminClient<DefaultClientContext> = kafka.client().create().map_err(|error| error.to_string())?;
    let topics: Vec<ResourceSpecifier<'_>> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
    let resources = admin.describe_configs(&topics, &options).await.map_err(|error| error.to_string())?;
    let mut risky = Vec::new();
    for (name, resource) in names.iter().zip(resources) {
        let resource = resource.map_err(|code| code.to_string())?;
        let value = resource.get("min.insync.replicas").and_then(|entry| entry.value.as_deref());
        if value == Some("1") {
            risky.push((*name).to_owned());
        }
    }
    Ok(risky)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_single_replica_and_a_different_partition_count_are_reported() {
        let kafka = KafkaConfig { partitions: 3, ..KafkaConfig::default() };
        let topic = |name: &str, partitions| Topic { name: name.to_owned(), partitions, replicas: 1 };
        let found = risks(&kafka, &[topic("a", 3), topic("b", 4)]).await;
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].ends_with("partitions: b") && found[1].contains("of a, b"), "{found:?}");
        assert_eq!(risks(&kafka, &[]).await, Vec::<String>::new());
    }
}
