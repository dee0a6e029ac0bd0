//! Recent Kafka errors with their times: an old error does not explain today's rejections.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::error::RDKafkaErrorCode;

/// How long an error is reported as a possible cause.
const RECENT: Duration = Duration::from_secs(60);

/// How long a topic counts as not writable after Kafka rejected a record because of missing rights or a missing topic.
/// After that ingest reports ready again; otherwise no load balancer would ever send it the event that shows whether the
/// problem is over.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// Most topics that are stored: more than ingest writes to.
const TOPICS_MAX: usize = 100;

/// The most recent errors.
#[derive(Default)]
pub(crate) struct KafkaErrors {
    last: Option<(String, Instant)>,
    /// Topics for which Kafka rejects ingest's records, with the error.
    refused: BTreeMap<String, (RDKafkaErrorCode, Instant)>,
}

impl KafkaErrors {
    /// Records an error of the client, such as a refused connection.
    pub(crate) fn note_client(&mut self, reason: &str, now: Instant) {
        self.last = Some((reason.to_owned(), now));
    }

    /// Records that a record was not written.
    pub(crate) fn note_delivery(&mut self, topic: &str, code: RDKafkaErrorCode, now: Instant) {
        // These follow from earlier failures, or mean that ingest itself stopped waiting.
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

    /// Description of the last error; `None` if it is old.
    pub(crate) fn last(&self, now: Instant) -> Option<String> {
        let (text, at) = self.last.as_ref()?;
        let age = now.saturating_duration_since(*at);
        (age <= RECENT).then(|| format!("{text}, {} s ago", age.as_secs()))
    }

    /// Description of the topics for which Kafka rejects ingest's records; `None` if there are none.
    pub(crate) fn refused(&mut self, now: Instant) -> Option<String> {
        self.refused.retain(|_, (_, at)| now.saturating_duration_since(*at) < REFUSED_FOR);
        let topics: Vec<String> = self.refused.iter().map(|(topic, (code, _))| format!("{topic}: {code}")).collect();
        (!topics.is_empty()).then(|| format!("Kafka rejects ingest's records for {}", topics.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_reported_for_a_minute() {
        let (mut kafka_errors, t0) = (KafkaErrors::default(), Instant::now());
        assert_eq!(kafka_errors.last(t0), None);
        kafka_errors.note_client("connection refused", t0);
        assert_eq!(kafka_errors.last(t0 + Duration::from_secs(3)).as_deref(), Some("connection refused, 3 s ago"));
        kafka_errors.note_delivery("riverlock.raw.other", RDKafkaErrorCode::NotEnoughReplicas, t0);
        assert!(kafka_errors.last(t0).is_some_and(|text| text.contains("riverlock.raw.other")));
        assert_eq!(kafka_errors.last(t0 + Duration::from_secs(61)), None);
    }

    #[test]
    fn a_topic_without_write_rights_is_reported_for_a_limited_time() {
        let (mut kafka_errors, t0) = (KafkaErrors::default(), Instant::now());
        kafka_errors.note_delivery("a", RDKafkaErrorCode::NotEnoughReplicas, t0);
        assert_eq!(kafka_errors.refused(t0), None, "the breaker handles this error");
        kafka_errors.note_delivery("a", RDKafkaErrorCode::TopicAuthorizationFailed, t0);
        assert!(kafka_errors.refused(t0).is_some_and(|text| text.contains("a: ")));
        assert_eq!(kafka_errors.refused(t0 + REFUSED_FOR), None);
        for topic in 0..1_000 {
            kafka_errors.note_delivery(&topic.to_string(), RDKafkaErrorCode::UnknownTopicOrPartition, t0);
        }
        assert_eq!(kafka_errors.refused.len(), TOPICS_MAX);
    }
}
