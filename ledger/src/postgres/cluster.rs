//! Which Kafka cluster the positions in the database refer to.
//!
//! Topic, partition and offset say where a record is only together with the cluster: after a move to another cluster the same
//! position is another record. So each topic has a number per cluster, offsets are kept under that number, and whatever
//! compares positions with Kafka first makes sure that it is connected to the cluster that is current in the database.
//! `riverlock setup` records the first cluster, and makes another one current only when it is told so.

use chrono::{DateTime, Utc};
use rdkafka::{
    ClientContext,
    client::Client,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
};
use riverlock_runtime::kafka::{KafkaConfig, REQUEST_TIMEOUT};
use sqlx::{Connection as _, PgConnection};

use crate::{
    Error,
    postgres::{TRANSACTION_LIMIT, bounded},
};

/// The cluster that is connected cannot be told, or is not the one that the database belongs to.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// PostgreSQL refused, or could not be reached.
    #[error(transparent)]
    Ledger(#[from] Error),
    /// The client could not be made.
    #[error("the Kafka client could not be created")]
    Kafka(#[from] KafkaError),
    /// No broker told the cluster's id in time.
    #[error("Kafka at {0} did not tell its cluster id within {seconds} s", seconds = REQUEST_TIMEOUT.as_secs())]
    NoAnswer(String),
    /// The positions in the database are of another cluster.
    #[error(
        "kafka.brokers ({brokers}) leads to cluster {connected}, but the positions in the database belong to cluster \
         {current}. Correct kafka.brokers; or, if Kafka was replaced for good, see `riverlock setup --new-cluster`"
    )]
    Other {
        /// Where Kafka was asked.
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

/// A cluster that the database knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// As Kafka's brokers report it.
    pub id: String,
    /// When it became the current one.
    pub adopted_at: DateTime<Utc>,
}

/// The current cluster; `None` until `riverlock setup` has recorded one.
pub async fn current(connection: &mut PgConnection) -> Result<Option<Cluster>, Error> {
    let row = sqlx::query_as!(
        Cluster,
        "-- cluster_current
         SELECT cluster_id AS id, adopted_at FROM kafka_clusters WHERE is_current"
    );
    bounded(TRANSACTION_LIMIT, async { Ok(row.fetch_optional(connection).await?) }).await
}

/// As [`current`], also of a database whose tables do not exist yet, or are of a version that knew no clusters.
pub async fn recorded(connection: &mut PgConnection) -> Result<Option<Cluster>, Error> {
    let exists = sqlx::query_scalar!(
        r#"-- cluster_table_exists
           SELECT to_regclass('kafka_clusters') IS NOT NULL AS "exists!""#
    );
    let exists = bounded(TRANSACTION_LIMIT, async { Ok::<_, Error>(exists.fetch_one(&mut *connection).await?) });
    if exists.await? { current(connection).await } else { Ok(None) }
}

/// The cluster that `kafka.brokers` leads to.
///
/// # Errors
/// When it does not answer.
pub async fn connected(kafka: &KafkaConfig) -> Result<String, ClusterError> {
    let config = kafka.clone();
    let ask = move || {
        let client: BaseConsumer = config.client().create()?;
        id_of(client.client(), &config)
    };
    // Fails only when the runtime ends.
    tokio::task::spawn_blocking(ask).await.unwrap_or_else(|_| Err(ClusterError::NoAnswer(kafka.brokers.clone())))
}

/// Makes sure that `kafka.brokers` leads to the cluster that the database belongs to, or that none is recorded yet.
///
/// # Errors
/// When it leads to another one, or Kafka or PostgreSQL does not answer.
pub async fn ensure_current(kafka: &KafkaConfig, connection: &mut PgConnection) -> Result<(), ClusterError> {
    let Some(current) = current(connection).await? else { return Ok(()) };
    compare(kafka, &connected(kafka).await?, &current)
}

/// As [`ensure_current`], with a client that is there already. Blocks while Kafka is asked.
///
/// # Errors
/// When it leads to another cluster, or Kafka or PostgreSQL does not answer.
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

/// The client library (rdkafka 0.39) does not free the answer's 30 or so bytes, so this is not asked again and again: once per
/// run of the audit, which is 3 MB in a year.
fn id_of<C: ClientContext>(client: &Client<C>, kafka: &KafkaConfig) -> Result<String, ClusterError> {
    let id = client.fetch_cluster_id(REQUEST_TIMEOUT).filter(|id| !id.is_empty());
    id.ok_or_else(|| ClusterError::NoAnswer(kafka.brokers.clone()))
}

/// Makes a cluster the current one. Topics that were numbered before any cluster was recorded are this cluster's from now on.
/// A cluster that was current before continues where its consumers stopped.
///
/// The caller makes sure that no service runs.
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
