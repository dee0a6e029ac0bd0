//! Makes the topics with their settings, and checks them at start.

use std::collections::HashMap;

use rdkafka::{
    admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    error::{KafkaError, RDKafkaErrorCode},
};

use crate::kafka::{KafkaConfig, RECORD_BYTES_MAX, REQUEST_TIMEOUT};

/// Why the topics are not as they must be.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// Kafka did not answer, or not what was asked.
    #[error("Kafka at {brokers} could not {what}")]
    Kafka {
        /// Where it was asked.
        brokers: String,
        /// What it was asked.
        what: &'static str,
        /// Its answer.
        #[source]
        source: KafkaError,
    },
    /// Kafka refused to make a topic.
    #[error("topic {0} could not be created: {1}")]
    Create(String, RDKafkaErrorCode),
    /// Topics are missing.
    #[error("these topics are missing (`riverlock setup` creates them): {}", .0.join(", "))]
    Missing(Vec<String>),
    /// A topic has another number of partitions than is configured: keys would meet in the wrong place.
    #[error("topic {topic} has {found} partitions, but kafka.partitions is {expected}")]
    Partitions {
        /// The topic.
        topic: String,
        /// Its partitions.
        found: usize,
        /// What the configuration says.
        expected: i32,
    },
    /// A topic has a setting that could lose or reorder events.
    #[error("topic {topic} has {key}={found}, but {key}={expected} is needed")]
    Setting {
        /// The topic.
        topic: String,
        /// The setting.
        key: String,
        /// Its value.
        found: String,
        /// What it must be.
        expected: String,
    },
}

/// A topic as it should be.
struct Wanted {
    name: String,
    settings: Vec<(&'static str, String)>,
}

fn wanted(config: &KafkaConfig) -> Vec<Wanted> {
    let topics = config.topics();
    let min_insync = (config.replication_factor - 1).clamp(1, 2).to_string();
    let settings = |retention: String, bytes: String| {
        vec![
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", retention),
            ("retention.bytes", bytes),
            ("message.timestamp.type", "LogAppendTime".to_owned()),
            ("min.insync.replicas", min_insync.clone()),
            ("unclean.leader.election.enable", "false".to_owned()),
            ("max.message.bytes", RECORD_BYTES_MAX.to_string()),
        ]
    };
    let unbounded = || "-1".to_owned();
    let kept = topics.all_raw().into_iter().chain([topics.dead_letter(), topics.fulfillment()]);
    let mut wanted: Vec<Wanted> =
        kept.map(|name| Wanted { name, settings: settings(config.retention_ms.to_string(), unbounded()) }).collect();
    wanted.push(Wanted { name: topics.probe(), settings: settings("3600000".to_owned(), unbounded()) });
    let (ms, bytes) = (config.quarantine_retention_ms.to_string(), config.quarantine_retention_bytes.to_string());
    wanted.push(Wanted { name: topics.quarantine(), settings: settings(ms, bytes) });
    wanted
}

/// The names of all topics that the services use.
#[must_use]
pub fn names(config: &KafkaConfig) -> Vec<String> {
    wanted(config).into_iter().map(|topic| topic.name).collect()
}

/// Creates the topics that are missing and returns their names.
///
/// # Errors
/// When Kafka cannot be reached or refuses.
pub async fn create(config: &KafkaConfig) -> Result<Vec<String>, TopicError> {
    let admin = admin(config)?;
    let existing = existing(config, &admin)?;
    let missing: Vec<Wanted> = wanted(config).into_iter().filter(|topic| !existing.contains_key(&topic.name)).collect();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let new: Vec<NewTopic<'_>> = missing
        .iter()
        .map(|topic| {
            let new = NewTopic::new(&topic.name, config.partitions, TopicReplication::Fixed(config.replication_factor));
            topic.settings.iter().fold(new, |new, (key, value)| new.set(key, value))
        })
        .collect();
    let results = admin.create_topics(&new, &options()).await.map_err(|error| kafka(config, "create topics", error))?;
    for result in results {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(TopicError::Create(topic, code)),
        }
    }
    Ok(missing.into_iter().map(|topic| topic.name).collect())
}

/// Checks that every topic exists, with the number of partitions and the settings that the services rely on.
///
/// # Errors
/// When Kafka cannot be reached, or a topic is missing or different.
pub async fn check(config: &KafkaConfig) -> Result<(), TopicError> {
    let admin = admin(config)?;
    let existing = existing(config, &admin)?;
    let wanted = wanted(config);
    let missing: Vec<String> =
        wanted.iter().map(|topic| topic.name.clone()).filter(|name| !existing.contains_key(name)).collect();
    if !missing.is_empty() {
        return Err(TopicError::Missing(missing));
    }
    for topic in &wanted {
        let found = existing[&topic.name];
        if usize::try_from(config.partitions) != Ok(found) {
            return Err(TopicError::Partitions { topic: topic.name.clone(), found, expected: config.partitions });
        }
    }
    let specifiers: Vec<ResourceSpecifier<'_>> =
        wanted.iter().map(|topic| ResourceSpecifier::Topic(&topic.name)).collect();
    match admin.describe_configs(&specifiers, &options()).await {
        Ok(resources) => wanted.iter().zip(resources).try_for_each(|(topic, resource)| check_settings(topic, resource)),
        // Not every broker answers this (a managed one without the permission, the embedded one at all).
        Err(error) => {
            tracing::warn!(%error, "the topics' settings could not be checked: {error}");
            Ok(())
        }
    }
}

fn check_settings(topic: &Wanted, resource: Result<ConfigResource, RDKafkaErrorCode>) -> Result<(), TopicError> {
    let resource = match resource {
        Ok(resource) => resource,
        Err(error) => {
            tracing::warn!(topic = topic.name, %error, "the settings of topic {} could not be checked: {error}", topic.name);
            return Ok(());
        }
    };
    // Retention is the operator's; the rest decides whether events can be lost.
    let needed = topic.settings.iter().filter(|(key, _)| !key.starts_with("retention"));
    for (key, expected) in needed {
        let found = resource.get(key).and_then(|entry| entry.value.clone()).unwrap_or_default();
        let at_least = matches!(*key, "max.message.bytes" | "min.insync.replicas");
        let enough = at_least && found.parse::<u64>().ok() >= expected.parse::<u64>().ok();
        if found != *expected && !enough {
            let (topic, key) = (topic.name.clone(), (*key).to_owned());
            return Err(TopicError::Setting { topic, key, found, expected: expected.clone() });
        }
    }
    Ok(())
}

fn admin(config: &KafkaConfig) -> Result<AdminClient<DefaultClientContext>, TopicError> {
    config.client().create().map_err(|error| kafka(config, "be asked", error))
}

fn existing(
    config: &KafkaConfig,
    admin: &AdminClient<DefaultClientContext>,
) -> Result<HashMap<String, usize>, TopicError> {
    let metadata =
        admin.inner().fetch_metadata(None, REQUEST_TIMEOUT).map_err(|error| kafka(config, "list its topics", error))?;
    Ok(metadata.topics().iter().map(|topic| (topic.name().to_owned(), topic.partitions().len())).collect())
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(REQUEST_TIMEOUT)).request_timeout(Some(REQUEST_TIMEOUT))
}

fn kafka(config: &KafkaConfig, what: &'static str, source: KafkaError) -> TopicError {
    TopicError::Kafka { brokers: config.brokers.clone(), what, source }
}
