//! What Kafka complained about, with the time: yesterday's error is not the reason for today's refusals.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::error::RDKafkaErrorCode;

/// How long an error may be the reason for what happens.
const RECENT: Duration = Duration::from_secs(60);

/// How long a topic counts as refused after Kafka refused a record for lack of rights, or because the topic is gone. Then
/// ingest calls itself ready again, or no load balancer would ever send it the event that shows whether that is over.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// Most topics that are remembered: more than there are.
const TOPICS_MAX: usize = 100;

/// The last errors.
#[derive(Default)]
pub(crate) struct KafkaErrors {
    last: Option<(String, Instant)>,
    /// Topics that Kafka lets ingest write nothing to, with the error.
    refused: BTreeMap<String, (RDKafkaErrorCode, Instant)>,
}

impl KafkaErrors {
    /// Notes an error of the client, such as a connection that is refused.
    pub(crate) fn note_client(&mut self, reason: &str, now: Instant) {
        self.last = Some((reason.to_owned(), now));
    }

    /// Notes that a record was not written.
    pub(crate) fn note_delivery(&mut self, topic: &str, code: RDKafkaErrorCode, now: Instant) {
        // These say that others had failed before, or that ingest gave up itself.
        if !matches!(code, RDKafkaErrorCode::MessageTimedOut | RDKafkaErrorCode::PurgeQueue) {
            self.last = Some((format!("{code} ({topic})"), now));
        }
        let is_refusal = matches!(
            code,
            RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
        );
        if is_refusal && (self.refused.len() < TOPICS_MAX || self.refused.contains_key(topic)) {
            self.refused.insert(topic.to_owned(), (code, now));
        }
    }

    /// The last error, for people; nothing when it is old.
    pub(crate) fn last(&self, now: Instant) -> Option<String> {
        let (text, at) = self.last.as_ref()?;
        let age = now.saturating_duration_since(*at);
        (age <= RECENT).then(|| format!("{text}, {} s ago", age.as_secs()))
    }

    /// The topics that Kafka lets ingest write nothing to, for people; nothing when there are none.
    pub(crate) fn refused(&mut self, now: Instant) -> Option<String> {
        self.refused.retain(|_, (_, at)| now.saturating_duration_since(*at) < REFUSED_FOR);
        let topics: Vec<String> = self.refused.iter().map(|(topic, (code, _))| format!("{topic}: {code}")).collect();
        (!topics.is_empty()).then(|| format!("Kafka refuses what ingest writes to {}", topics.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_reason_for_a_minute_only() {
        let (mut kafka_errors, t0) = (KafkaErrors::default(), Instant::now());
        assert_eq!(kafka_errors.last(t0), None);
        kafka_errors.note_client("connection refused", t0);
        assert_eq!(kafka_errors.last(t0 + Duration::from_secs(3)).as_deref(), Some("connection refused, 3 s ago"));
        kafka_errors.note_delivery("riverlock.raw.other", RDKafkaErrorCode::NotEnoughReplicas, t0);
        assert!(kafka_errors.last(t0).is_some_and(|text| text.contains("riverlock.raw.other")));
        assert_eq!(kafka_errors.last(t0 + Duration::from_secs(61)), None);
    }

    #[test]
    fn a_topic_without_rights_is_named_for_a_while() {
        let (mut kafka_errors, t0) = (KafkaErrors::default(), Instant::now());
        kafka_errors.note_delivery("a", RDKafkaErrorCode::NotEnoughReplicas, t0);
        assert_eq!(kafka_errors.refused(t0), None, "that is for the breaker");
        kafka_errors.note_delivery("a", RDKafkaErrorCode::TopicAuthorizationFailed, t0);
        assert!(kafka_errors.refused(t0).is_some_and(|text| text.contains("a: ")));
        assert_eq!(kafka_errors.refused(t0 + REFUSED_FOR), None);
        for topic in 0..1_000 {
            kafka_errors.note_delivery(&topic.to_string(), RDKafkaErrorCode::UnknownTopicOrPartition, t0);
        }
        assert_eq!(kafka_errors.refused.len(), TOPICS_MAX);
    }
}
