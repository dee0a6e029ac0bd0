//! Kafka client configuration: the settings that delivery guarantees depend on.

pub mod closing;
pub mod topics;

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{ClientConfig, config::RDKafkaLogLevel};
use riverlock_schemas::kafka::{
    record::STORED_BYTES_MAX,
    topics::{DEFAULT_PREFIX, Topics, WILDCARD},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ConfigError, config::DurationText};

/// How long a metadata or admin request may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest record that is written or read, in bytes: the largest body plus 256 KiB for its key and headers.
pub const RECORD_BYTES_MAX: usize = STORED_BYTES_MAX + 256 * 1024;

/// How long a record waits for others to be sent in the same request, in milliseconds. Most of the cost of a record is that
/// of its request.
const LINGER_MS: &str = "5";

/// Brokers, topics and clients. `riverlock setup` creates the topics, and shows where existing ones differ from these settings;
/// `--apply-topic-settings` changes them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaConfig {
    /// Bootstrap servers, `host:port` separated by commas.
    pub brokers: String,
    /// First part of the name of every topic, consumer group and client id.
    pub topic_prefix: String,
    /// Event types whose events go to `<prefix>.raw.orders`: a type, or the beginning of types followed by `*`. Types that the
    /// processor applies always go there, documents to `<prefix>.raw.documents`, and all others to `<prefix>.raw.other`.
    pub order_types: Vec<String>,
    /// Event types that had a topic each in earlier versions, whose setting `routed_types` had the same values and is an alias.
    /// Those of their topics that Kafka has are still read; nothing is written to them.
    #[serde(alias = "routed_types")]
    pub former_types: Vec<String>,
    /// The topics of `former_types` that Kafka has, if they were looked up ([`topics::find_former`]).
    #[serde(skip)]
    pub former_topics: Vec<String>,
    /// Partitions of every topic: the number of processors that can share the work. It cannot be changed later, because orders
    /// would move to other partitions. More partitions make ingest's batches smaller.
    pub partitions: i32,
    /// Copies of every partition. With 3, two brokers must have a record before it is acknowledged.
    pub replication_factor: i32,
    /// How long raw events, and shipments from other systems, are kept; -1 without a limit. Expired events cannot be replayed or
    /// recomputed.
    pub retention_ms: i64,
    /// How long published dead letters are kept; -1 without a limit. They stay in PostgreSQL in any case.
    pub dead_letter_retention_ms: i64,
    /// How long messages to other systems are kept; -1 without a limit. Choose a time that is longer than any of those
    /// systems may be disconnected.
    pub fulfillment_retention_ms: i64,
    /// How long a consumer may be silent before its partitions are given to another one.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub session_timeout: Duration,
    /// How long events in quarantine are kept.
    pub quarantine_retention_ms: i64,
    /// How much of a partition of the quarantine is kept: unauthenticated senders write there.
    pub quarantine_retention_bytes: i64,
    /// Further librdkafka properties, such as `"security.protocol"` and `"sasl.password"`. A value can be a file
    /// (`file:/path`).
    pub properties: BTreeMap<String, Property>,
}

/// The value of a librdkafka property; printed redacted, because some are secrets.
pub type Property = crate::Secret;

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".to_owned(),
            topic_prefix: DEFAULT_PREFIX.to_owned(),
            order_types: Topics::default_order_types().map(str::to_owned).collect(),
            former_types: Topics::default_former_types().map(str::to_owned).collect(),
            former_topics: Vec::new(),
            partitions: 3,
            replication_factor: 1,
            retention_ms: -1,
            dead_letter_retention_ms: -1,
            fulfillment_retention_ms: -1,
            session_timeout: Duration::from_secs(45),
            quarantine_retention_ms: 14 * 24 * 3_600_000,
            quarantine_retention_bytes: 64 * 1024 * 1024,
            properties: BTreeMap::new(),
        }
    }
}

/// Settings that the delivery guarantees depend on, so the configuration cannot change them.
const FIXED: [&str; 14] = [
    "acks",
    "auto.offset.reset",
    "delivery.report.only.error",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.protocol",
    "partition.assignment.strategy",
    "partitioner",
    "request.required.acks",
    "transactional.id",
];

impl KafkaConfig {
    /// Checks the values and their combinations.
    ///
    /// # Errors
    /// When a value is out of range, or a fixed property is set.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.brokers.trim().is_empty() {
            return Err(ConfigError::refused("kafka.brokers", "is empty; expected host:port, separated by commas"));
        }
        if !(1..=1_000).contains(&self.partitions) {
            return Err(ConfigError::refused("kafka.partitions", "must be from 1 to 1000"));
        }
        if !(1..=10).contains(&self.replication_factor) {
            return Err(ConfigError::refused("kafka.replication_factor", "must be from 1 to 10"));
        }
        if !(Duration::from_secs(6)..=Duration::from_secs(300)).contains(&self.session_timeout) {
            return Err(ConfigError::refused("kafka.session_timeout", "must be from 6s to 5m"));
        }
        for (key, value) in [
            ("retention_ms", self.retention_ms),
            ("dead_letter_retention_ms", self.dead_letter_retention_ms),
            ("fulfillment_retention_ms", self.fulfillment_retention_ms),
        ] {
            if value != -1 && value < 1 {
                let reason = format!("is {value}; expected milliseconds, or -1 to keep everything");
                return Err(ConfigError::refused(format!("kafka.{key}"), reason));
            }
        }
        for (key, value) in [
            ("quarantine_retention_ms", self.quarantine_retention_ms),
            ("quarantine_retention_bytes", self.quarantine_retention_bytes),
        ] {
            if value < 1 {
                let reason =
                    format!("is {value}; it must have a limit, because unauthenticated events are written there");
                return Err(ConfigError::refused(format!("kafka.{key}"), reason));
            }
        }
        let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if self.topic_prefix.is_empty() || !self.topic_prefix.chars().all(legal) {
            return Err(ConfigError::refused("kafka.topic_prefix", "must be letters, digits, `.`, `_` and `-`"));
        }
        if let Some(name) = self.former_types.iter().find(|name| name.is_empty() || !name.chars().all(legal)) {
            return Err(ConfigError::refused(
                "kafka.former_types",
                format!("`{name}` cannot be part of a topic's name"),
            ));
        }
        let is_pattern = |text: &str| {
            let beginning = text.strip_suffix(WILDCARD).unwrap_or(text);
            !text.is_empty() && !beginning.contains(WILDCARD)
        };
        if let Some(text) = self.order_types.iter().find(|text| !is_pattern(text)) {
            let reason = format!("`{text}` is neither an event type nor the beginning of some followed by `*`");
            return Err(ConfigError::refused("kafka.order_types", reason));
        }
        match FIXED.iter().find(|name| self.properties.contains_key(**name)) {
            Some(name) => Err(ConfigError::refused(
                format!("kafka.properties.\"{name}\""),
                "cannot be changed: no acknowledged event may be lost, and none may take effect twice",
            )),
            None => Ok(()),
        }
    }

    /// Reads the properties that are given as files.
    ///
    /// # Errors
    /// When one of the files cannot be read.
    pub fn read_secrets(&self) -> Result<(), ConfigError> {
        self.properties
            .iter()
            .try_for_each(|(name, value)| value.read(&format!("kafka.properties.\"{name}\"")).map(drop))
    }

    /// The topics' names, and the routing of event types.
    #[must_use]
    pub fn topics(&self) -> Topics {
        Topics::new(self.topic_prefix.clone(), self.order_types.iter().cloned())
            .with_former(self.former_types.iter().cloned(), self.former_topics.iter().cloned())
    }

    /// Configuration of clients that read no records: admin clients, and those that query offsets.
    #[must_use]
    pub fn client(&self) -> ClientConfig {
        self.with_properties(self.common())
    }

    /// Overrides the defaults with the configured properties.
    fn with_properties(&self, mut config: ClientConfig) -> ClientConfig {
        for (name, value) in &self.properties {
            config.set(name, value.expose());
        }
        config
    }

    /// Settings that producers, consumers and admin clients have in common.
    fn common(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set_log_level(RDKafkaLogLevel::Warning)
            .set("bootstrap.servers", &self.brokers)
            // The prefix distinguishes installs that share a cluster, also in Kafka's logs and quotas.
            .set("client.id", &self.topic_prefix)
            // Reconnect within half a second after a broker becomes available again (default 10 s).
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "500")
            .set("socket.connection.setup.timeout.ms", "2000")
            .set("socket.keepalive.enable", "true")
            // A typo must not create a topic.
            .set("allow.auto.create.topics", "false");
        config
    }

    /// An idempotent producer, for which a record counts as written only when all in-sync replicas have it.
    #[must_use]
    pub fn producer(&self) -> ClientConfig {
        let mut config = self.common();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", LINGER_MS)
            // Not a deadline: a small value would cause a reconnect storm when a broker is slow. Callers have their own
            // timers.
            .set("message.timeout.ms", "15000")
            .set("request.timeout.ms", "2500")
            .set("socket.timeout.ms", "4000")
            .set("retry.backoff.ms", "50")
            .set("retry.backoff.max.ms", "500")
            .set("queue.buffering.max.kbytes", "131072")
            .set("message.max.bytes", RECORD_BYTES_MAX.to_string())
            // Java's default, so that other tools find a key's partition. It must never change, because keys would move to
            // other partitions.
            .set("partitioner", "murmur2_random")
            .set("compression.type", "lz4");
        self.with_properties(config)
    }

    /// The id of the consumer group `name`. It begins with the topic prefix: installs that share a cluster must not share
    /// groups, and one ACL on the prefix covers topics and groups. Offsets are stored in PostgreSQL, so a group's name may
    /// change at any time.
    #[must_use]
    pub fn group(&self, name: &str) -> String {
        format!("{}.{name}", self.topic_prefix)
    }

    /// A consumer of the group `name`. It commits only explicitly, and fails instead of jumping if its offset no longer
    /// exists.
    #[must_use]
    pub fn consumer(&self, name: &str) -> ClientConfig {
        let mut config = self.common();
        config
            .set("group.id", self.group(name))
            .set("group.protocol", "classic")
            // Shares each topic out by itself, and the same partition numbers of all topics to the same process. The sticky
            // strategies only count partitions: of two processors, one got all orders and the other all other events.
            .set("partition.assignment.strategy", "range")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("session.timeout.ms", self.session_timeout.as_millis().to_string())
            .set("max.poll.interval.ms", "300000")
            // How soon a topic is read after it was created or the consumer was authorized for it (default 5 min).
            .set("topic.metadata.refresh.interval.ms", "30000")
            .set("fetch.queue.backoff.ms", "20")
            .set("fetch.wait.max.ms", "100")
            // Small fetches from every partition in turn: no partition falls far behind the others, and a consumer with a
            // large lag needs less memory.
            .set("fetch.message.max.bytes", "262144")
            .set("queued.max.messages.kbytes", "32768")
            .set("check.crcs", "true")
            .set("enable.partition.eof", "false");
        self.with_properties(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Secret;

    #[test]
    fn a_property_that_guarantees_depend_on_is_rejected() {
        let mut config = KafkaConfig::default();
        assert!(config.validate().is_ok());
        config.properties.insert("acks".to_owned(), Secret::new("1"));
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("kafka.properties.\"acks\""), "{error}");
        let unbounded = KafkaConfig { quarantine_retention_bytes: -1, ..KafkaConfig::default() };
        let error = unbounded.validate().unwrap_err().to_string();
        assert!(error.contains("kafka.quarantine_retention_bytes"), "{error}");
        let nothing_kept = KafkaConfig { fulfillment_retention_ms: 0, ..KafkaConfig::default() };
        let error = nothing_kept.validate().unwrap_err().to_string();
        assert!(error.contains("kafka.fulfillment_retention_ms"), "{error}");
    }

    #[test]
    fn a_configured_property_applies_to_producers_and_consumers() {
        let mut config = KafkaConfig::default();
        assert_eq!(config.producer().get("compression.type"), Some("lz4"));
        for (name, value) in [("compression.type", "zstd"), ("fetch.wait.max.ms", "7"), ("security.protocol", "ssl")] {
            config.properties.insert(name.to_owned(), Secret::new(value));
        }
        assert_eq!(config.producer().get("compression.type"), Some("zstd"));
        assert_eq!(config.consumer("g").get("fetch.wait.max.ms"), Some("7"));
        assert_eq!(config.client().get("security.protocol"), Some("ssl"));
    }

    #[test]
    fn the_setting_of_earlier_versions_names_their_topics() {
        let config: KafkaConfig = serde_json::from_str(r#"{"routed_types":["payout.created"]}"#).unwrap();
        assert!(config.validate().is_ok());
        assert_eq!(config.former_types, ["payout.created"]);
        assert!(config.topics().possible_former().contains(&"riverlock.raw.payout.created".to_owned()));
        assert!(serde_json::from_str::<KafkaConfig>(r#"{"former_topics":["x"]}"#).is_err(), "it is looked up");
        for (order_types, is_valid) in [("order.*", true), ("*", true), ("a.b", true), ("", false), ("a*b", false)] {
            let config = KafkaConfig { order_types: vec![order_types.to_owned()], ..KafkaConfig::default() };
            assert_eq!(config.validate().is_ok(), is_valid, "{order_types}");
        }
    }

    #[test]
    fn installs_with_different_prefixes_share_no_group_and_no_client_id() {
        let config = |prefix: &str| KafkaConfig { topic_prefix: prefix.to_owned(), ..KafkaConfig::default() };
        let (one, other) = (config("one"), config("other"));
        assert_eq!(one.consumer("processor").get("group.id"), Some("one.processor"));
        assert_eq!(other.consumer("processor").get("group.id"), Some("other.processor"));
        for client in [one.client(), one.producer(), one.consumer("processor")] {
            assert_eq!(client.get("client.id"), Some("one"));
        }
    }
}
