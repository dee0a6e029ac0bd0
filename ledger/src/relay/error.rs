//! Errors of the relay.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::Error;

/// A message could not be published, or the queue could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// PostgreSQL failed or is unavailable.
    #[error(transparent)]
    Ledger(#[from] Error),
    /// Kafka did not accept a message.
    #[error("Kafka did not accept a message: {0}")]
    Kafka(#[from] KafkaError),
    /// Kafka accepted a message without reporting its offset. It may be lost, so it is sent again.
    #[error("Kafka did not report the offset of a message")]
    NoOffset,
    /// No delivery report arrived in time. The message is sent again.
    #[error("no delivery report for a message arrived in time")]
    NoReport,
}

impl RelayError {
    /// Whether Kafka rejects this particular message, so that sending it again does not help.
    pub(crate) fn is_rejection(&self) -> bool {
        let Self::Kafka(error) = self else { return false };
        matches!(
            error.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::MessageSizeTooLarge
                    | RDKafkaErrorCode::MessageBatchTooLarge
                    | RDKafkaErrorCode::InvalidMessage
                    | RDKafkaErrorCode::InvalidMessageSize
                    | RDKafkaErrorCode::InvalidRecord
                    | RDKafkaErrorCode::InvalidTimestamp
                    | RDKafkaErrorCode::PolicyViolation
            )
        )
    }
}

impl From<sqlx::Error> for RelayError {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_caused_by_the_message_are_permanent_rejections() {
        let failed = |code| RelayError::Kafka(KafkaError::MessageProduction(code));
        for code in [RDKafkaErrorCode::MessageSizeTooLarge, RDKafkaErrorCode::InvalidRecord] {
            assert!(failed(code).is_rejection(), "{code:?}");
        }
        for code in [
            RDKafkaErrorCode::TopicAuthorizationFailed,
            RDKafkaErrorCode::UnknownTopicOrPartition,
            RDKafkaErrorCode::MessageTimedOut,
            RDKafkaErrorCode::QueueFull,
        ] {
            assert!(!failed(code).is_rejection(), "{code:?}");
        }
        assert!(!RelayError::NoOffset.is_rejection());
    }
}
