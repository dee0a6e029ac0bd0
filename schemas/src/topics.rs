//! Topics: names, and which event goes where.
//!
//! Every raw topic has the same number of partitions and the key is the order id, so an order's records of all types meet
//! in the same partition number.

use std::collections::BTreeSet;

use crate::events::event_type;

/// What every topic's name starts with, unless configured otherwise.
pub const DEFAULT_PREFIX: &str = "riverlock";

/// What stands between a Kafka cluster's id and a topic's name where a topic of an earlier cluster is named. No topic's name may
/// contain it.
pub const CLUSTER_SEPARATOR: char = '/';

/// Whether this names a topic of an earlier Kafka cluster, which the current one does not have.
#[must_use]
pub fn is_of_earlier_cluster(topic: &str) -> bool {
    topic.contains(CLUSTER_SEPARATOR)
}

/// The topic's name alone, without the earlier cluster that it may be of.
#[must_use]
pub fn without_cluster(topic: &str) -> &str {
    topic.rsplit(CLUSTER_SEPARATOR).next().unwrap_or(topic)
}

/// The topics' names under a prefix, and the routing of event types to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    prefix: String,
    routed: BTreeSet<String>,
}

impl Topics {
    /// The names under `prefix`; `routed` are the event types that have a topic of their own, all others share one.
    ///
    /// Files always have topics of their own, whatever `routed` says: they have a consumer of their own.
    pub fn new(prefix: impl Into<String>, routed: impl IntoIterator<Item = String>) -> Self {
        let files = event_type::FILES.into_iter().map(str::to_owned);
        Self { prefix: prefix.into(), routed: routed.into_iter().chain(files).collect() }
    }

    /// The event types that have a topic of their own by default: the two that begin and end an order's fulfillment, and
    /// files.
    ///
    /// Not every type that has a consumer: a producer sends one request for each partition that it has a record for, so
    /// topics that hardly anything goes to make every batch smaller, and each costs ingest CPU time whether it is used or
    /// not. The processor reads all orders' topics in any case, the shared one as well.
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

    /// The raw topic of all types without one of their own.
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
        // `other` may be among the routed types.
        all.dedup();
        all
    }

    /// The raw topics that the invoice-fetcher consumes.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        event_type::FILES.iter().map(|event_type| self.raw(event_type)).collect()
    }

    /// The raw topics that the processor consumes: all that the invoice-fetcher does not, so that every record has one
    /// consumer that gives it an outcome.
    #[must_use]
    pub fn orders(&self) -> Vec<String> {
        let files = self.files();
        self.all_raw().into_iter().filter(|topic| !files.contains(topic)).collect()
    }

    /// Where records that no consumer could apply are published.
    #[must_use]
    pub fn dead_letter(&self) -> String {
        format!("{}.dead-letter", self.prefix)
    }

    /// Where ingest keeps well-formed events whose sender it could not believe, for a while.
    #[must_use]
    pub fn quarantine(&self) -> String {
        format!("{}.quarantine", self.prefix)
    }

    /// What other systems (warehouse, ERP, mail) consume.
    #[must_use]
    pub fn fulfillment(&self) -> String {
        format!("{}.fulfillment", self.prefix)
    }

    /// Where ingest writes one record before it reports ready, so that the first event does not pay for the connection.
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
    fn a_topic_of_an_earlier_cluster_is_told_apart() {
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
