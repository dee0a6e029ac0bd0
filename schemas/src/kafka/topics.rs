//! Names of topics, and routing of events to them.
//!
//! There is a raw topic for each use, not for each event type. The key of a record is the order id, so all events of an order
//! are in one partition of one topic: they keep their order of arrival, and one processor at a time applies them.

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

/// What a pattern of event types ends with to match every type that begins with it.
pub const WILDCARD: char = '*';

const ORDERS: &str = "orders";
const DOCUMENTS: &str = "documents";
const OTHER: &str = "other";

/// The service that consumes a raw topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawConsumer {
    /// The processor.
    Processor,
    /// The invoice-fetcher.
    InvoiceFetcher,
}

/// The names of the topics with a prefix, and the routing of event types to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    prefix: String,
    order_types: Vec<String>,
    /// Event types that may have had a topic each in an earlier version.
    former_types: BTreeSet<String>,
    /// Those of their topics that are still read.
    former: Vec<String>,
}

impl Topics {
    /// Creates the names for `prefix`. Event types that match one of `order_types` go to the topic of orders: a type, or the
    /// beginning of types followed by [`WILDCARD`]. Those that the processor applies always go there.
    pub fn new(prefix: impl Into<String>, order_types: impl IntoIterator<Item = String>) -> Self {
        Self {
            prefix: prefix.into(),
            order_types: order_types.into_iter().collect(),
            former_types: event_type::FILES.into_iter().map(str::to_owned).collect(),
            former: Vec::new(),
        }
    }

    /// Adds topics of earlier versions, which had one for each of `types`, and for each type of documents. Those in `existing`
    /// are read; nothing is written to any of them.
    #[must_use]
    pub fn with_former(
        mut self,
        types: impl IntoIterator<Item = String>,
        existing: impl IntoIterator<Item = String>,
    ) -> Self {
        self.former_types.extend(types);
        let possible = self.possible_former();
        self.former = existing.into_iter().filter(|topic| possible.contains(topic)).collect();
        self.former.sort();
        self
    }

    /// The default patterns of the types that go to the topic of orders: those that name an order.
    pub fn default_order_types() -> impl Iterator<Item = &'static str> {
        ["order.*", "fulfillment.*"].into_iter()
    }

    /// The event types that had a topic each in earlier versions, unless configured otherwise.
    pub fn default_former_types() -> impl Iterator<Item = &'static str> {
        [event_type::ORDER_ACCEPTED, event_type::ORDER_COMPLETE].into_iter().chain(event_type::FILES)
    }

    /// The raw topic of an event type.
    #[must_use]
    pub fn raw(&self, event_type: &str) -> String {
        if event_type::FILES.contains(&event_type) {
            self.raw_documents()
        } else if event_type::subject(event_type).is_some() || self.is_order_type(event_type) {
            self.raw_orders()
        } else {
            self.raw_other()
        }
    }

    fn is_order_type(&self, event_type: &str) -> bool {
        self.order_types.iter().any(|pattern| match pattern.strip_suffix(WILDCARD) {
            Some(beginning) => event_type.starts_with(beginning),
            None => pattern == event_type,
        })
    }

    fn raw_of(&self, name: &str) -> String {
        format!("{}.raw.{name}", self.prefix)
    }

    /// The raw topic of events of orders, except documents.
    #[must_use]
    pub fn raw_orders(&self) -> String {
        self.raw_of(ORDERS)
    }

    /// The raw topic of events of documents.
    #[must_use]
    pub fn raw_documents(&self) -> String {
        self.raw_of(DOCUMENTS)
    }

    /// The raw topic of all other events, and of bodies that are not events.
    #[must_use]
    pub fn raw_other(&self) -> String {
        self.raw_of(OTHER)
    }

    /// Every raw topic that is written to, sorted.
    #[must_use]
    pub fn all_raw(&self) -> Vec<String> {
        [DOCUMENTS, ORDERS, OTHER].map(|name| self.raw_of(name)).into()
    }

    /// The topics that earlier versions may have created and this one does not write to, sorted.
    #[must_use]
    pub fn possible_former(&self) -> Vec<String> {
        let current = self.all_raw();
        let topics = self.former_types.iter().map(|event_type| self.raw_of(event_type));
        topics.filter(|topic| !current.contains(topic)).collect()
    }

    /// The topics of earlier versions that are read, sorted.
    #[must_use]
    pub fn former(&self) -> &[String] {
        &self.former
    }

    /// The consumer of a raw topic; `None` if no consumer reads it. Every record has exactly one consumer.
    #[must_use]
    pub fn consumer_of(&self, topic: &str) -> Option<RawConsumer> {
        match self.name_of(topic)? {
            ORDERS | OTHER => Some(RawConsumer::Processor),
            DOCUMENTS => Some(RawConsumer::InvoiceFetcher),
            former if event_type::FILES.contains(&former) => Some(RawConsumer::InvoiceFetcher),
            former => self.former_types.contains(former).then_some(RawConsumer::Processor),
        }
    }

    fn name_of<'a>(&self, topic: &'a str) -> Option<&'a str> {
        topic.strip_prefix(self.prefix.as_str())?.strip_prefix(".raw.")
    }

    /// Whether a raw topic can have events of this type: with any order types, and from any version.
    #[must_use]
    pub fn may_hold(&self, topic: &str, event_type: &str) -> bool {
        let is_of_document = event_type::FILES.contains(&event_type);
        match self.name_of(topic) {
            Some(ORDERS | OTHER) => !is_of_document,
            Some(DOCUMENTS) => is_of_document,
            Some(former) => former == event_type,
            None => false,
        }
    }

    /// The raw topics that the invoice-fetcher consumes.
    #[must_use]
    pub fn documents(&self) -> Vec<String> {
        self.consumed_by(RawConsumer::InvoiceFetcher)
    }

    /// The raw topics that had or have documents in any version, whether they exist or not.
    #[must_use]
    pub fn documents_of_all_versions(&self) -> Vec<String> {
        let former = event_type::FILES.map(|event_type| self.raw_of(event_type));
        std::iter::once(self.raw_documents()).chain(former).collect()
    }

    /// The raw topics that the processor consumes.
    #[must_use]
    pub fn orders(&self) -> Vec<String> {
        self.consumed_by(RawConsumer::Processor)
    }

    fn consumed_by(&self, consumer: RawConsumer) -> Vec<String> {
        let topics = self.all_raw().into_iter().chain(self.former.iter().cloned());
        topics.filter(|topic| self.consumer_of(topic) == Some(consumer)).collect()
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

    /// The topic of shipments, which other systems write.
    #[must_use]
    pub fn shipments(&self) -> String {
        format!("{}.shipments", self.prefix)
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
        Self::new(DEFAULT_PREFIX, Self::default_order_types().map(str::to_owned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_determines_the_topic() {
        let topics = Topics::default();
        for (topic, types) in [
            (
                "riverlock.raw.orders",
                &["order.accepted", "order.invented", "order.charge.x", "fulfillment.create"] as &[_],
            ),
            ("riverlock.raw.documents", &["order.invoice.created", "order.credit_memo.created"]),
            ("riverlock.raw.other", &["payout.created", "other", "orders", "order", ""]),
        ] {
            for event_type in types {
                assert_eq!(topics.raw(event_type), topic, "{event_type}");
            }
        }
    }

    #[test]
    fn types_that_the_processor_applies_go_to_the_topic_of_orders_whatever_is_configured() {
        let topics = Topics::new("x", ["payout.created".to_owned(), "refund*".to_owned()]);
        for (event_type, topic) in [
            ("order.accepted", "x.raw.orders"),
            ("order.charge.invented", "x.raw.orders"),
            ("fulfillment.created", "x.raw.orders"),
            ("payout.created", "x.raw.orders"),
            ("payout.created.again", "x.raw.other"),
            ("refund.created", "x.raw.orders"),
            ("order.invented", "x.raw.other"),
            ("order.invoice.created", "x.raw.documents"),
        ] {
            assert_eq!(topics.raw(event_type), topic, "{event_type}");
        }
    }

    #[test]
    fn a_topic_of_an_earlier_cluster_is_recognized() {
        let named = format!("5L6g3nShT-eMCtK--X86sw{CLUSTER_SEPARATOR}riverlock.raw.other");
        assert!(is_of_earlier_cluster(&named) && !is_of_earlier_cluster("riverlock.raw.other"));
        assert_eq!((without_cluster(&named), without_cluster("a.b")), ("riverlock.raw.other", "a.b"));
    }

    #[test]
    fn every_raw_topic_has_exactly_one_consumer() {
        let former = || Topics::default_former_types().chain(["other", "payout.created"]).map(str::to_owned);
        for topics in [
            Topics::default(),
            Topics::new("x", []),
            Topics::new("x", ["*".to_owned()]),
            Topics::new("x", [])
                .with_former(former(), Topics::new("x", []).with_former(former(), []).possible_former()),
        ] {
            let mut consumed: Vec<String> = topics.orders().into_iter().chain(topics.documents()).collect();
            consumed.sort();
            let mut all: Vec<String> = topics.all_raw().into_iter().chain(topics.former().iter().cloned()).collect();
            all.sort();
            assert_eq!(consumed, all);
        }
    }

    #[test]
    fn topics_of_earlier_versions_are_read_if_they_exist() {
        let types = ["order.accepted", "order.complete"].map(str::to_owned);
        let existing = ["x.raw.order.complete", "x.raw.order.invoice.created", "x.raw.other", "x.raw.copy", "x.probe"];
        let topics = Topics::new("x", []).with_former(types, existing.map(str::to_owned));
        assert_eq!(topics.former(), ["x.raw.order.complete", "x.raw.order.invoice.created"]);
        assert_eq!(topics.orders(), ["x.raw.orders", "x.raw.other", "x.raw.order.complete"]);
        assert_eq!(topics.documents(), ["x.raw.documents", "x.raw.order.invoice.created"]);
        assert!(topics.all_raw().iter().all(|topic| !topics.former().contains(topic)), "nothing is written to them");
        for (topic, consumer) in [
            ("x.raw.order.accepted", Some(RawConsumer::Processor)),
            ("x.raw.order.credit_memo.created", Some(RawConsumer::InvoiceFetcher)),
            ("x.raw.copy", None),
            ("x.fulfillment", None),
            ("y.raw.orders", None),
        ] {
            assert_eq!(topics.consumer_of(topic), consumer, "{topic}");
        }
    }

    #[test]
    fn every_type_is_searched_where_any_version_wrote_it() {
        let topics = Topics::default();
        for event_type in ["order.accepted", "order.cancelled", "order.invoice.created", "payout.created", ""] {
            let former = format!("riverlock.raw.{event_type}");
            assert!(topics.may_hold(&topics.raw(event_type), event_type) && topics.may_hold(&former, event_type));
            assert!(!topics.may_hold("riverlock.raw.order.complete", event_type));
        }
        assert!(topics.may_hold("riverlock.raw.other", "order.cancelled"), "an earlier version wrote it there");
        assert!(!topics.may_hold("riverlock.raw.documents", "order.cancelled"));
    }
}
