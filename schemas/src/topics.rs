//! Names of topics, and routing of events to them.
//!
//! Every raw topic has the same number of partitions and the key is the order id, so all records of an order have the same
//! partition number in every topic.

use std::collections::BTreeSet;

use crate::events::event_type;

/// Default prefix of all topic names.
pub const DEFAULT_PREFIX: &str = "riverlock";

/// Separates the cluster's id and the topic's name in the full name of a topic of an earlier Kafka cluster. Kafka does not
/// allow this character in topic names.
pub const CLUSTER_SEPARATOR: char = '/';

/// Whether the full name is of a topic of an earlier Kafka cluster, which cannot be read from the current one.
#[must_use]
pub fn is_of_earlier_cluster(topic: &str) -> bool {
    topic.contains(CLUSTER_SEPARATOR)
}

/// The topic's name without the id of an earlier cluster.
#[must_use]
pub fn without_cluster(topic: &str) -> &str {
    topic.rsplit(CLUSTER_SEPARATOR).next().unwrap_or(topic)
}

/// The names of the topics with a prefix, and the routing of event types to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    prefix: String,
    routed: BTreeSet<String>,
}

impl Topics {
    /// Creates the names for `prefix`. The event types in `routed` have their own topics; all others share one.
    ///
    /// Event types of files always have their own topics, because the invoice-fetcher consumes them.
    pub fn new(prefix: impl Into<String>, routed: impl IntoIterator<Item = String>) -> Self {
        let files = event_type::FILES.into_iter().map(str::to_owned);
        Self { prefix: prefix.into(), routed: routed.into_iter().chain(files).collect() }
    }

    /// The event types that have their own topics by default: the two that start and end an order's fulfillment, and files.
    ///
    /// Further types share a topic, because a producer batches records per partition: topics with few records make every batch
    /// smaller, and each topic costs ingest CPU time. The processor reads all topics of orders, including the shared one.
    pub fn default_routed() -> impl Iterator<Item = &'static str> {
        [event_type::ORDER_ACCEPTED, event_type::ORDER_COMPLETE].into_iter().chain(event_type::FILES)
    }

    /// The raw topic of an event type.
    #[must_use]
    pub fn raw(&self, event_type: &str) -> String {
        if self.routed.contains(event_type) { self.raw_of(event_type) } else { self.raw_other() }
    }

    fn raw_of(&self, event_type: &str) -> String {
        format!("{}.raw.{event_type}", self.prefix)
    }

    /// The raw topic of all types without their own topic.
    #[must_use]
    pub fn raw_other(&self) -> String {
        self.raw_of("other")
    }

    /// Every raw topic, sorted.
    #[must_use]
    pub fn all_raw(&self) -> Vec<String> {
        let mut all: Vec<String> = self.routed.iter().map(|event_type| self.raw_of(event_type)).collect();
        all.push(self.raw_other());
        all.sort();
        // The routed types may include `other`.
        all.dedup();
        all
    }

    /// The raw topics that the invoice-fetcher consumes.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        event_type::FILES.iter().map(|event_type| self.raw(event_type)).collect()
    }

    /// The raw topics that the processor consumes: all except those of the invoice-fetcher, so that every record has exactly
    /// one consumer.
    #[must_use]
    pub fn orders(&self) -> Vec<String> {
        let files = self.files();
        self.all_raw().into_iter().filter(|topic| !files.contains(topic)).collect()
    }

    /// The topic to which dead letters are published.
    #[must_use]
    pub fn dead_letter(&self) -> String {
        format!("{}.dead-letter", self.prefix)
    }

    /// The quarantine: unauthenticated but well-formed events, kept for a limited time.
    #[must_use]
    pub fn quarantine(&self) -> String {
        format!("{}.quarantine", self.prefix)
    }

    /// The topic of messages to other systems (warehouse, ERP, mail).
    #[must_use]
    pub fn fulfillment(&self) -> String {
        format!("{}.fulfillment", self.prefix)
    }

    /// The topic to which ingest writes one record before it reports ready, so that the first event need not wait for a
    /// connection.
    #[must_use]
    pub fn probe(&self) -> String {
        format!("{}.probe", self.prefix)
    }
}

impl Default for Topics {
    fn default() -> Self {
        Self::new(DEFAULT_PREFIX, Self::default_routed().map(str::to_owned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_type_goes_to_the_shared_topic() {
        let topics = Topics::default();
        assert_eq!(topics.raw("order.accepted"), "riverlock.raw.order.accepted");
        assert_eq!(topics.raw("order.cancelled"), "riverlock.raw.other");
        assert_eq!(topics.raw("payout.created"), "riverlock.raw.other");
        assert_eq!(topics.raw("other"), "riverlock.raw.other");
    }

    #[test]
    fn a_topic_of_an_earlier_cluster_is_recognized() {
        let named = format!("5L6g3nShT-eMCtK--X86sw{CLUSTER_SEPARATOR}riverlock.raw.other");
        assert!(is_of_earlier_cluster(&named) && !is_of_earlier_cluster("riverlock.raw.other"));
        assert_eq!((without_cluster(&named), without_cluster("a.b")), ("riverlock.raw.other", "a.b"));
    }

    #[test]
    fn every_raw_topic_has_exactly_one_consumer() {
        for topics in [
            Topics::default(),
            Topics::new("x", []),
            Topics::new("x", ["payout.created".to_owned()]),
            Topics::new("x", ["other".to_owned()]),
        ] {
            let mut consumed: Vec<String> = topics.orders().into_iter().chain(topics.files()).collect();
            consumed.sort();
            assert_eq!(consumed, topics.all_raw());
        }
    }
}
