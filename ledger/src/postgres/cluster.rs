//! The Kafka cluster that the positions in the database refer to.
//!
//! Topic, partition and offset identify a record only within a cluster: after a move to another cluster the same
//! position is another record. So each topic has a number per cluster, offsets are stored by that number, and all code
//! that compares positions with Kafka first checks that it is connected to the cluster that is current in the database.
//! `riverlock setup` records the first cluster, and makes another one current only if the operator requests it.

use chrono::{DateTime, Utc};
use rdkafka::{ClientContext, client::Client, consumer::Consumer as _, error::KafkaError};
use riverlock_runtime::{
    ConsumerGuard,
    kafka::{KafkaConfig, REQUEST_TIMEOUT},
};
use sqlx::{Connection as _, PgConnection};

use crate::{
    Error,
    postgres::{TRANSACTION_LIMIT, bounded},
};

/// The connected cluster is unknown, or is not the one that the database belongs to.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// PostgreSQL failed or is unavailable.
    #[error(transparent)]
    Ledger(#[from] Error),
    /// The client could not be created.
    #[error("the Kafka client could not be created")]
    Kafka(#[from] KafkaError),
    /// No broker reported the cluster id in time.
    #[error("Kafka at {0} did not report its cluster id within {seconds} s", seconds = REQUEST_TIMEOUT.as_secs())]
    NoAnswer(String),
    /// The positions in the database belong to another cluster.
    #[error(
        "kafka.brokers ({brokers}) connects to cluster {connected}, but the positions in the database belong to cluster \
         {current}. Correct kafka.brokers; or, if Kafka was replaced permanently, see `riverlock setup --new-cluster`"
    )]
    Other {
        /// The configured brokers.
        brokers: String,
        /// The cluster that answered.
        connected: String,
        /// The cluster that the database belongs to.
        current: String,
    },
}

impl From<sqlx::Error> for ClusterError {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}

/// A cluster that is recorded in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster id as reported by the brokers.
    pub id: String,
    /// When it became the current cluster.
    pub adopted_at: DateTime<Utc>,
}

/// Returns the current cluster; `None` until `riverlock setup` has recorded one.
pub async fn current(connection: &mut PgConnection) -> Result<Option<Cluster>, Error> {
    let row = sqlx::query_as!(
        Cluster,
        "-- cluster_current
         SELECT cluster_id AS id, adopted_at FROM kafka_clusters WHERE is_current"
    );
    bounded(TRANSACTION_LIMIT, async { Ok(row.fetch_optional(connection).await?) }).await
}

/// Like [`current`], also for a database whose tables do not exist yet or predate the recording of clusters.
pub async fn recorded(connection: &mut PgConnection) -> Result<Option<Cluster>, Error> {
    let exists = sqlx::query_scalar!(
        r#"-- cluster_table_exists
           SELECT to_regclass('kafka_clusters') IS NOT NULL AS "exists!""#
    );
    let exists = bounded(TRANSACTION_LIMIT, async { Ok::<_, Error>(exists.fetch_one(&mut *connection).await?) });
    if exists.await? { current(connection).await } else { Ok(None) }
}

/// Returns the id of the cluster that `kafka.brokers` connects to.
///
/// # Errors
/// When Kafka does not answer.
pub async fn connected(kafka: &KafkaConfig) -> Result<String, ClusterError> {
    let config = kafka.clone();
    let ask = move || {
        let client = ConsumerGuard::create(&config.client())?;
        id_of(client.client(), &config)
    };
    // Fails only at the shutdown of the runtime.
    tokio::task::spawn_blocking(ask).await.unwrap_or_else(|_| Err(ClusterError::NoAnswer(kafka.brokers.clone())))
}

/// Checks that `kafka.brokers` connects to the cluster that the database belongs to, or that none is recorded yet.
///
/// # Errors
/// When it connects to another cluster, or Kafka or PostgreSQL does not answer.
pub async fn ensure_current(kafka: &KafkaConfig, connection: &mut PgConnection) -> Result<(), ClusterError> {
    let Some(current) = current(connection).await? else { return Ok(()) };
    compare(kafka, &connected(kafka).await?, &current)
}

/// Like [`ensure_current`], with an existing client. Blocks during the request to Kafka.
///
/// # Errors
/// When it is connected to another cluster, or Kafka or PostgreSQL does not answer.
pub async fn ensure_current_with<C: ClientContext>(
    kafka: &KafkaConfig,
    client: &Client<C>,
    connection: &mut PgConnection,
) -> Result<(), ClusterError> {
    let Some(current) = current(connection).await? else { return Ok(()) };
    compare(kafka, &id_of(client, kafka)?, &current)
}

fn compare(kafka: &KafkaConfig, connected: &str, current: &Cluster) -> Result<(), ClusterError> {
    if connected == current.id {
        return Ok(());
    }
    let (brokers, connected) = (kafka.brokers.clone(), connected.to_owned());
    Err(ClusterError::Other { brokers, connected, current: current.id.clone() })
}

/// Requests the cluster id. rdkafka 0.39 leaks the answer (about 30 bytes), so this must not be called often: once per
/// run of the audit leaks 3 MB per year.
fn id_of<C: ClientContext>(client: &Client<C>, kafka: &KafkaConfig) -> Result<String, ClusterError> {
    let id = client.fetch_cluster_id(REQUEST_TIMEOUT).filter(|id| !id.is_empty());
    id.ok_or_else(|| ClusterError::NoAnswer(kafka.brokers.clone()))
}

/// Makes a cluster the current one. Topics that were numbered before any cluster was recorded are assigned to it. A
/// cluster that was current before continues where its consumers stopped.
///
/// The caller ensures that no service is running.
pub async fn adopt(connection: &mut PgConnection, cluster_id: &str) -> Result<(), Error> {
    let mut transaction = connection.begin().await?;
    let is_first = current(&mut transaction).await?.is_none();
    sqlx::query!("-- cluster_leave\nUPDATE kafka_clusters SET is_current = false WHERE is_current")
        .execute(&mut *transaction)
        .await?;
    sqlx::query!(
        "-- cluster_adopt
         INSERT INTO kafka_clusters (cluster_id, is_current) VALUES ($1, true)
         ON CONFLICT (cluster_id) DO UPDATE SET is_current = true, adopted_at = now()",
        cluster_id
    )
    .execute(&mut *transaction)
    .await?;
    if is_first {
        sqlx::query!("-- cluster_take_topics\nUPDATE topics SET cluster_id = $1 WHERE cluster_id = ''", cluster_id)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(())
}
