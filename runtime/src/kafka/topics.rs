//! Creation of the topics, comparison of existing ones with the configuration, and changes to their settings.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use rdkafka::{
    admin::{
        AdminClient, AdminOptions, AlterConfig, ConfigResource, ConfigSource, NewTopic, ResourceSpecifier,
        TopicReplication,
    },
    client::{Client, ClientContext, DefaultClientContext},
    consumer::Consumer as _,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};
use serde::Serialize;

use crate::{
    ConsumerGuard,
    kafka::{KafkaConfig, RECORD_BYTES_MAX, REQUEST_TIMEOUT},
};

/// Retention of the probe topic, in milliseconds.
const PROBE_RETENTION_MS: i64 = 3_600_000;
/// How long to wait for the reason of a failed request.
const LOG_WAIT: Duration = Duration::from_millis(200);
/// Kafka's value for no limit.
const UNLIMITED: i64 = -1;

const PARTITIONS: &str = "partitions";
const REPLICATION_FACTOR: &str = "replication.factor";
const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";
const MAX_MESSAGE_BYTES: &str = "max.message.bytes";

/// A failed operation on topics, or topics that differ from the configuration.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// Kafka did not answer, or answered with an error.
    #[error("Kafka at {brokers} could not {what}")]
    Kafka {
        /// The bootstrap servers.
        brokers: String,
        /// The operation.
        what: &'static str,
        /// The error.
        #[source]
        source: KafkaError,
    },
    /// Kafka rejected the creation of a topic.
    #[error("topic {0} could not be created: {1}")]
    Create(String, RDKafkaErrorCode),
    /// Kafka rejected a change of a topic's settings.
    #[error("the settings of topic {0} could not be changed: {1}")]
    Alter(String, RDKafkaErrorCode),
    /// Asking Kafka panicked.
    #[error("asking Kafka for its topics panicked")]
    Panicked,
    /// Topics are missing.
    #[error("these topics are missing (`riverlock setup` creates them): {}", .0.join(", "))]
    Missing(Vec<String>),
    /// A topic's number of partitions differs from the configuration, so an order's records would be in partitions with
    /// different numbers.
    #[error("topic {topic} has {found} partitions, but kafka.partitions is {expected}")]
    Partitions {
        /// The topic.
        topic: String,
        /// Its number of partitions.
        found: String,
        /// The configured number.
        expected: String,
    },
    /// A topic has a setting that could lose or reorder events.
    #[error(
        "topic {topic} has {key}={found}, but {key}={expected} is needed (`riverlock setup` shows how to change it)"
    )]
    Setting {
        /// The topic.
        topic: String,
        /// The setting.
        key: String,
        /// Its value.
        found: String,
        /// The required value.
        expected: String,
    },
}

/// A topic with the configured settings.
struct TopicSpec {
    name: String,
    /// Whether it is a raw topic, in whose partitions orders' events are searched.
    is_raw: bool,
    settings: Vec<(&'static str, String)>,
}

fn wanted(config: &KafkaConfig) -> Vec<TopicSpec> {
    let topics = config.topics();
    let min_insync = (config.replication_factor - 1).clamp(1, 2).to_string();
    let topic = |name: String, is_raw: bool, retention_ms: i64, retention_bytes: i64| TopicSpec {
        name,
        is_raw,
        settings: vec![
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", retention_ms.to_string()),
            ("retention.bytes", retention_bytes.to_string()),
            ("message.timestamp.type", "LogAppendTime".to_owned()),
            (MIN_INSYNC_REPLICAS, min_insync.clone()),
            ("unclean.leader.election.enable", "false".to_owned()),
            (MAX_MESSAGE_BYTES, RECORD_BYTES_MAX.to_string()),
        ],
    };
    let raw = topics.all_raw().into_iter().map(|name| topic(name, true, config.retention_ms, UNLIMITED));
    let others = [
        (topics.shipments(), config.retention_ms, UNLIMITED),
        (topics.dead_letter(), config.dead_letter_retention_ms, UNLIMITED),
        (topics.fulfillment(), config.fulfillment_retention_ms, UNLIMITED),
        (topics.probe(), PROBE_RETENTION_MS, UNLIMITED),
        (topics.quarantine(), config.quarantine_retention_ms, config.quarantine_retention_bytes),
    ];
    raw.chain(others.map(|(name, ms, bytes)| topic(name, false, ms, bytes))).collect()
}

/// The names of all topics that the services use.
#[must_use]
pub fn names(config: &KafkaConfig) -> Vec<String> {
    wanted(config).into_iter().map(|topic| topic.name).collect()
}

/// Creates the missing topics and returns their names.
///
/// # Errors
/// When Kafka cannot be reached or rejects the request.
pub async fn create(config: &KafkaConfig) -> Result<Vec<String>, TopicError> {
    let admin = admin(config)?;
    let existing = existing(config, &admin)?;
    let missing: Vec<TopicSpec> =
        wanted(config).into_iter().filter(|topic| !existing.contains_key(&topic.name)).collect();
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

/// An existing topic, compared with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicState {
    /// The topic.
    pub name: String,
    /// Its number of partitions.
    pub partitions: usize,
    /// Differences from the configuration.
    pub differences: Vec<Difference>,
    /// Why the settings could not be compared; `None` if they were. Some brokers do not return them.
    pub not_compared: Option<String>,
}

/// A setting of a topic that differs from the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// Kafka's name of the setting; `partitions` and `replication.factor` for the values that are not settings.
    pub key: String,
    /// Its value; empty if Kafka does not return it.
    pub found: String,
    /// The configured value.
    pub wanted: String,
    /// Whether events could be lost or reordered with the existing value, so that the services do not start.
    pub is_required: bool,
    /// Whether [`apply`] changes it.
    pub can_be_applied: bool,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is {}, but {} is configured", self.key, self.found, self.wanted)
    }
}

/// Compares every topic with the configuration.
///
/// # Errors
/// When Kafka cannot be reached, or a topic is missing.
pub async fn compare(config: &KafkaConfig) -> Result<Vec<TopicState>, TopicError> {
    let admin = admin(config)?;
    let existing = existing(config, &admin)?;
    let wanted = wanted(config);
    let missing: Vec<String> =
        wanted.iter().map(|topic| topic.name.clone()).filter(|name| !existing.contains_key(name)).collect();
    if !missing.is_empty() {
        return Err(TopicError::Missing(missing));
    }
    let names: Vec<&str> = wanted.iter().map(|topic| topic.name.as_str()).collect();
    let settings = describe(&admin, &names).await;
    let states = wanted.iter().map(|topic| {
        let found = existing[&topic.name];
        let mut state = TopicState {
            name: topic.name.clone(),
            partitions: found.partitions,
            differences: found.differences(config, topic),
            not_compared: None,
        };
        match settings.get(&topic.name) {
            Some(Ok(resource)) => state.differences.extend(differing_settings(topic, found, resource)),
            Some(Err(reason)) => state.not_compared = Some(reason.clone()),
            None => state.not_compared = Some("Kafka did not return them".to_owned()),
        }
        state
    });
    Ok(states.collect())
}

/// Changes the settings that differ and can be changed; other settings of these topics keep their values. Returns the names
/// of the changed topics.
///
/// # Errors
/// When Kafka cannot be reached or rejects the request.
pub async fn apply(config: &KafkaConfig, states: &[TopicState]) -> Result<Vec<String>, TopicError> {
    let applicable = |state: &&TopicState| state.differences.iter().any(|difference| difference.can_be_applied);
    let states: Vec<&TopicState> = states.iter().filter(applicable).collect();
    let admin = admin(config)?;
    let names: Vec<&str> = states.iter().map(|state| state.name.as_str()).collect();
    let described = describe(&admin, &names).await;
    for state in &states {
        // The request replaces all settings of a topic, so those that were set elsewhere are sent as well.
        let mut settings: BTreeMap<&str, &str> = BTreeMap::new();
        if let Some(Ok(resource)) = described.get(&state.name) {
            let set = resource.entries.iter().filter(|entry| entry.source == ConfigSource::DynamicTopic);
            settings.extend(set.filter_map(|entry| Some((entry.name.as_str(), entry.value.as_deref()?))));
        }
        for difference in state.differences.iter().filter(|difference| difference.can_be_applied) {
            settings.insert(&difference.key, &difference.wanted);
        }
        let change = AlterConfig::new(ResourceSpecifier::Topic(&state.name));
        let change = settings.into_iter().fold(change, |change, (key, value)| change.set(key, value));
        let results = admin.alter_configs([&change], &options()).await;
        for result in results.map_err(|error| kafka(config, "change topics", error))? {
            result.map_err(|(_, code)| TopicError::Alter(state.name.clone(), code))?;
        }
    }
    Ok(states.iter().map(|state| state.name.clone()).collect())
}

/// Checks that every topic exists, with the number of partitions and the settings that the services rely on.
///
/// # Errors
/// When Kafka cannot be reached, or a topic is missing or different.
pub async fn check(config: &KafkaConfig) -> Result<(), TopicError> {
    for state in compare(config).await? {
        if let Some(reason) = &state.not_compared {
            tracing::warn!(topic = state.name, "the settings of topic {} could not be checked: {reason}", state.name);
        }
        for Difference { key, found, wanted: expected, is_required, .. } in state.differences {
            let topic = state.name.clone();
            match (is_required, key.as_str()) {
                (true, PARTITIONS) => return Err(TopicError::Partitions { topic, found, expected }),
                (true, _) => return Err(TopicError::Setting { topic, key, found, expected }),
                (false, _) => tracing::debug!(topic, key, found, expected, "a topic differs from the configuration"),
            }
        }
    }
    Ok(())
}

/// Looks up which topics of earlier versions Kafka has, so that they are read: sets `config.former_topics`.
///
/// # Errors
/// When Kafka cannot be reached.
pub async fn find_former(config: &mut KafkaConfig) -> Result<(), TopicError> {
    let asked = config.clone();
    let possible = config.topics().possible_former();
    let look_up = move || {
        let client = ConsumerGuard::create(&asked.client())?;
        // librdkafka's log lines say why the broker cannot be reached, and may follow the error.
        partition_counts(client.client(), &possible).inspect_err(|_| drop(client.poll(LOG_WAIT)))
    };
    let existing = tokio::task::spawn_blocking(look_up).await.map_err(|_| TopicError::Panicked)?;
    let existing = existing.map_err(|error| kafka(config, "list its topics", error))?;
    config.former_topics = existing.into_keys().collect();
    Ok(())
}

/// The actual number of partitions of a topic. If it is higher than configured, reading only the configured number would
/// miss records. Blocks.
///
/// # Errors
/// When Kafka cannot be reached, or does not have the topic.
pub fn partitions_of(config: &KafkaConfig, topic: &str) -> Result<i32, TopicError> {
    let admin = admin(config)?;
    let topics = [topic.to_owned()];
    let counts = partition_counts(admin.inner(), &topics).map_err(|error| kafka(config, "describe a topic", error))?;
    counts.get(topic).copied().ok_or_else(|| TopicError::Missing(topics.into()))
}

/// Like [`partitions_of`], for several topics with one request; topics that do not exist are absent from the result.
/// Blocks.
///
/// # Errors
/// When Kafka cannot be reached.
pub fn partition_counts<C: ClientContext>(client: &Client<C>, topics: &[String]) -> KafkaResult<BTreeMap<String, i32>> {
    let only = if let [topic] = topics { Some(topic.as_str()) } else { None };
    let metadata = client.fetch_metadata(only, REQUEST_TIMEOUT)?;
    let found = metadata.topics().iter().filter(|found| topics.iter().any(|topic| topic == found.name()));
    let counts =
        found.map(|found| (found.name().to_owned(), i32::try_from(found.partitions().len()).unwrap_or(i32::MAX)));
    Ok(counts.filter(|(_, partitions)| *partitions > 0).collect())
}

/// Metadata of an existing topic.
#[derive(Clone, Copy, Debug)]
struct ExistingTopic {
    partitions: usize,
    /// Replicas of the partition that has the fewest.
    replicas: usize,
}

impl ExistingTopic {
    /// Differences that cannot be changed at run time.
    fn differences(self, config: &KafkaConfig, topic: &TopicSpec) -> Vec<Difference> {
        let difference = |key: &str, found: usize, wanted: i32, is_required: bool| Difference {
            key: key.to_owned(),
            found: found.to_string(),
            wanted: wanted.to_string(),
            is_required,
            can_be_applied: false,
        };
        let mut differences = Vec::new();
        if usize::try_from(config.partitions) != Ok(self.partitions) {
            differences.push(difference(PARTITIONS, self.partitions, config.partitions, topic.is_raw));
        }
        if usize::try_from(config.replication_factor).is_ok_and(|wanted| self.replicas < wanted) {
            differences.push(difference(REPLICATION_FACTOR, self.replicas, config.replication_factor, false));
        }
        differences
    }
}

fn differing_settings(topic: &TopicSpec, existing: ExistingTopic, resource: &ConfigResource) -> Vec<Difference> {
    let mut differences = Vec::new();
    for (key, wanted) in &topic.settings {
        let found = resource.get(key).and_then(|entry| entry.value.clone()).unwrap_or_default();
        let at_least = matches!(*key, MAX_MESSAGE_BYTES | MIN_INSYNC_REPLICAS);
        let is_enough = at_least && found.parse::<u64>().ok() >= wanted.parse::<u64>().ok();
        if found == *wanted || is_enough {
            continue;
        }
        // If as many in-sync replicas were required as there are replicas, one unavailable broker would block all writes.
        let is_safe = *key != MIN_INSYNC_REPLICAS || wanted.parse::<usize>().is_ok_and(|min| min < existing.replicas);
        differences.push(Difference {
            key: (*key).to_owned(),
            found,
            wanted: wanted.clone(),
            // The operator decides about retention; the other settings decide whether events can be lost.
            is_required: !key.starts_with("retention"),
            can_be_applied: is_safe,
        });
    }
    differences
}

/// The settings of topics by name; an error describes why they are unknown.
async fn describe(
    admin: &AdminClient<DefaultClientContext>,
    names: &[&str],
) -> HashMap<String, Result<ConfigResource, String>> {
    if names.is_empty() {
        return HashMap::new();
    }
    let specifiers: Vec<ResourceSpecifier<'_>> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let name = |name: &&str| (*name).to_owned();
    match admin.describe_configs(&specifiers, &options()).await {
        Ok(found) => {
            names.iter().map(name).zip(found.into_iter().map(|one| one.map_err(|code| code.to_string()))).collect()
        }
        // Some brokers do not support this request: managed ones without the permission, and the embedded one.
        Err(error) => names.iter().map(|one| (name(one), Err(error.to_string()))).collect(),
    }
}

fn admin(config: &KafkaConfig) -> Result<AdminClient<DefaultClientContext>, TopicError> {
    config.client().create().map_err(|error| kafka(config, "be contacted", error))
}

fn existing(
    config: &KafkaConfig,
    admin: &AdminClient<DefaultClientContext>,
) -> Result<HashMap<String, ExistingTopic>, TopicError> {
    let metadata =
        admin.inner().fetch_metadata(None, REQUEST_TIMEOUT).map_err(|error| kafka(config, "list its topics", error))?;
    let topics = metadata.topics().iter().map(|topic| {
        let replicas = topic.partitions().iter().map(|partition| partition.replicas().len()).min();
        let existing = ExistingTopic { partitions: topic.partitions().len(), replicas: replicas.unwrap_or_default() };
        (topic.name().to_owned(), existing)
    });
    Ok(topics.collect())
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(REQUEST_TIMEOUT)).request_timeout(Some(REQUEST_TIMEOUT))
}

fn kafka(config: &KafkaConfig, what: &'static str, source: KafkaError) -> TopicError {
    TopicError::Kafka { brokers: config.brokers.clone(), what, source }
}

#[cfg(test)]
mod tests {
    use rdkafka::admin::{ConfigEntry, OwnedResourceSpecifier};

    use super::*;

    fn resource(settings: &[(&str, &str)]) -> ConfigResource {
        let entry = |(name, value): &(&str, &str)| ConfigEntry {
            name: (*name).to_owned(),
            value: Some((*value).to_owned()),
            source: ConfigSource::DynamicTopic,
            is_read_only: false,
            is_default: false,
            is_sensitive: false,
        };
        ConfigResource {
            specifier: OwnedResourceSpecifier::Topic("t".to_owned()),
            entries: settings.iter().map(entry).collect(),
        }
    }

    #[test]
    fn each_kind_of_topic_has_its_own_retention() {
        let config = KafkaConfig {
            retention_ms: 1,
            dead_letter_retention_ms: 2,
            fulfillment_retention_ms: 3,
            quarantine_retention_ms: 4,
            ..KafkaConfig::default()
        };
        let retention =
            |topic: &TopicSpec| topic.settings.iter().find(|(key, _)| *key == "retention.ms").unwrap().1.clone();
        let found: HashMap<String, String> =
            wanted(&config).iter().map(|topic| (topic.name.clone(), retention(topic))).collect();
        for (name, expected) in [
            ("riverlock.raw.other", "1"),
            ("riverlock.dead-letter", "2"),
            ("riverlock.fulfillment", "3"),
            ("riverlock.shipments", "1"),
            ("riverlock.quarantine", "4"),
            ("riverlock.probe", "3600000"),
        ] {
            assert_eq!(found[name], expected, "{name}");
        }
    }

    #[test]
    fn differences_show_whether_they_are_required_and_applicable() {
        let config = KafkaConfig { replication_factor: 3, ..KafkaConfig::default() };
        let topic = wanted(&config).into_iter().next().unwrap();
        let as_wanted: Vec<(&str, &str)> = topic.settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let with = |key: &str, value: &'static str, replicas: usize| {
            let settings: Vec<(&str, &str)> =
                as_wanted.iter().map(|(name, wanted)| (*name, if *name == key { value } else { *wanted })).collect();
            let found = differing_settings(&topic, ExistingTopic { partitions: 3, replicas }, &resource(&settings));
            found.into_iter().map(|one| (one.key, one.is_required, one.can_be_applied)).collect::<Vec<_>>()
        };
        let one = |key: &str, is_required, can_be_applied| vec![(key.to_owned(), is_required, can_be_applied)];
        assert_eq!(with("none", "", 3), []);
        assert_eq!(with("retention.ms", "604800000", 3), one("retention.ms", false, true));
        assert_eq!(with("max.message.bytes", "1048588", 3), one("max.message.bytes", true, true));
        assert_eq!(with("max.message.bytes", "9999999", 3), []);
        assert_eq!(with("cleanup.policy", "compact", 3), one("cleanup.policy", true, true));
        assert_eq!(with("min.insync.replicas", "1", 3), one("min.insync.replicas", true, true));
        assert_eq!(with("min.insync.replicas", "1", 2), one("min.insync.replicas", true, false));
        assert_eq!(with("min.insync.replicas", "3", 3), []);
    }

    #[test]
    fn the_partition_count_is_required_for_raw_topics() {
        let config = KafkaConfig { partitions: 6, replication_factor: 3, ..KafkaConfig::default() };
        for topic in wanted(&config) {
            let found = ExistingTopic { partitions: 3, replicas: 1 }.differences(&config, &topic);
            let found: Vec<_> = found.iter().map(|one| (one.to_string(), one.is_required)).collect();
            let partitions = ("partitions is 3, but 6 is configured".to_owned(), topic.is_raw);
            let replicas = ("replication.factor is 1, but 3 is configured".to_owned(), false);
            assert_eq!(found, [partitions, replicas], "{}", topic.name);
        }
    }
}
