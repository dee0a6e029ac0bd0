//! One round of each periodic job of this crate, without the wait between two rounds; see `riverlock_ledger::periodic`.

use riverlock_ledger::{Error, PostgresConfig};
use riverlock_runtime::kafka::KafkaConfig;
use sqlx::PgConnection;

use crate::{
    audit::{AuditError, running},
    dead_letters,
};

/// The consumers with the topics that each reads.
pub type Consumers = Vec<(&'static str, Vec<String>)>;

/// Runs of the running audit that find nothing new, as one process makes them.
///
/// # Errors
/// When Kafka or PostgreSQL does not answer.
pub async fn audit_runs(
    kafka: &KafkaConfig,
    connection: &mut PgConnection,
    consumers: &Consumers,
    rounds: usize,
) -> Result<(), AuditError> {
    running::runs(kafka, connection, consumers, rounds).await
}

/// What such a run asks and writes in PostgreSQL, without Kafka.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn audit_statements(
    connection: &mut PgConnection,
    consumers: &Consumers,
    rounds: usize,
) -> Result<(), AuditError> {
    for _ in 0..rounds {
        running::statements(connection, consumers).await?;
    }
    Ok(())
}

/// Counts of dead letters and conflicts.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn letter_counts(postgres: &PostgresConfig, rounds: usize) -> Result<(), Error> {
    let mut connection = None;
    for _ in 0..rounds {
        dead_letters::show(postgres, &mut connection).await?;
    }
    Ok(())
}
