//! Why the relay cannot go on.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::Error;

/// The relay could not go on.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// PostgreSQL refused, or is away.
    #[error(transparent)]
    Ledger(#[from] Error),
    /// Kafka did not take a message.
    #[error("Kafka did not take a message: {0}")]
    Kafka(#[from] KafkaError),
    /// Kafka took a message and did not say where; it may be lost, so it is sent again.
    #[error("Kafka did not say where a message lies")]
    Unproven,
    /// Kafka did not say in time what became of a message; it is sent again.
    #[error("Kafka did not say what became of a message")]
    Unknown,
}

impl RelayError {
    /// Whether Kafka refuses this very message, so that sending it again does not help.
    pub(crate) fn is_refusal(&self) -> bool {
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
    fn only_what_a_message_is_to_blame_for_is_refused_for_good() {
        let failed = |code| RelayError::Kafka(KafkaError::MessageProduction(code));
        for code in [RDKafkaErrorCode::MessageSizeTooLarge, RDKafkaErrorCode::InvalidRecord] {
            assert!(failed(code).is_refusal(), "{code:?}");
        }
        for code in [
            RDKafkaErrorCode::TopicAuthorizationFailed,
            RDKafkaErrorCode::UnknownTopicOrPartition,
            RDKafkaErrorCode::MessageTimedOut,
            RDKafkaErrorCode::QueueFull,
        ] {
            assert!(!failed(code).is_refusal(), "{code:?}");
        }
        assert!(!RelayError::Unproven.is_refusal());
    }
}
