//! Single rounds of this crate's periodic jobs, without the wait between them; see `riverlock_ledger::periodic`.

use riverlock_ledger::{Error, PostgresConfig};
use riverlock_runtime::kafka::KafkaConfig;
use sqlx::PgConnection;

use crate::{
    audit::{AuditError, running},
    dead_letters,
};

/// The consumers with the topics that each reads.
pub type Consumers = Vec<(&'static str, Vec<String>)>;

/// Runs of the continuous audit that find nothing new, as in one process.
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

/// The SQL statements of such a run, without Kafka.
///
/// # Errors
/// When PostgreSQL fails.
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

/// Counts dead letters and conflicts.
pub async fn letter_counts(postgres: &PostgresConfig, rounds: usize) -> Result<(), Error> {
    let mut connection = None;
    for _ in 0..rounds {
        dead_letters::show(postgres, &mut connection).await?;
    }
    Ok(())
}
