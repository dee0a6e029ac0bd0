//! Reads shipments from their Kafka topic, in one process at a time.
//!
//! A record is decided about in one transaction, which also advances the offset: it becomes a report, or it is rejected
//! with a message for other systems, or it is a dead letter. The checks are those of [`crate::add`], and so is the
//! idempotency: a record that is read again, or written twice, stores nothing new.

mod record;
mod store;

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::{counter, gauge};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::Consumer as _,
    error::KafkaError,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use riverlock_ledger::{
    DeadReason, Error as LedgerError, PostgresConfig, Record,
    error::Disposition,
    outbox,
    postgres::{
        self, Lock, bounded,
        cluster::{self, ClusterError},
    },
    store as ledger,
};
use riverlock_runtime::{
    Component, ConsumerGuard, Context,
    kafka::{
        KafkaConfig, REQUEST_TIMEOUT,
        topics::{TopicError, partitions_of},
    },
};
use sqlx::{Connection as _, PgConnection};

use self::store::Rejection;
use crate::{AddError, NewReport, StoredReport, add, metrics as names};

pub use record::{SHIPMENT_BYTES_MAX, read};
pub use store::{RejectionView, rejections};

/// Name of the consumer: its offsets in PostgreSQL. It must never change.
pub const CONSUMER: &str = "shipments";

/// Most records that are read before they are processed.
const BATCH_RECORDS: usize = 100;

/// How long a poll waits for a record.
const POLL_WAIT: Duration = Duration::from_millis(500);

/// Wait before a failed session is followed by the next one.
const ERROR_WAIT: Duration = Duration::from_secs(5);

/// Wait before another process is asked again whether it still reads.
const STANDBY_WAIT: Duration = Duration::from_secs(5);

/// Length of a session. The next one finds partitions that were added to the topic.
const SESSION_MAX: Duration = Duration::from_secs(600);

/// Time between two looks at the number of records that wait.
const LAG_INTERVAL: Duration = Duration::from_secs(15);

/// Longest time to publish a dead letter.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(20);

/// Time without a heartbeat after which the process counts as stuck; longer than any step may take.
const STUCK_AFTER: Duration = Duration::from_secs(5 * 60);

/// Why a session ended early.
#[derive(Debug, thiserror::Error)]
enum IntakeError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    #[error("Kafka did not confirm a dead letter")]
    Unconfirmed,
    #[error("a task panicked")]
    Panicked,
}

/// Reads shipments until the shutdown. Errors are logged and retried; it never returns an error.
pub async fn run(kafka: KafkaConfig, postgres: PostgresConfig, context: Context) -> Result<(), Infallible> {
    names::describe_intake();
    let soft = context.shutdown.soft().clone();
    let component = context.health.register_beating("shipment-intake", STUCK_AFTER);
    // Shipments wait in Kafka without harm, so the process is ready regardless.
    component.ready();
    let intake = Intake { kafka, postgres, context, component };
    while !soft.is_cancelled() {
        intake.component.beat();
        let wait = match intake.session().await {
            Ok(true) => Duration::ZERO,
            Ok(false) => STANDBY_WAIT,
            Err(error) => {
                tracing::warn!("cannot read shipments from Kafka: {error}");
                ERROR_WAIT
            }
        };
        intake.component.rest(wait, &soft).await;
    }
    Ok(())
}

struct Intake {
    kafka: KafkaConfig,
    postgres: PostgresConfig,
    context: Context,
    component: Component,
}

/// What a session works with.
struct Session {
    /// Holds the lock. A transaction on another connection could be committed after the lock was lost.
    connection: PgConnection,
    consumer: Arc<ConsumerGuard>,
    producer: FutureProducer,
    topic: Arc<str>,
    topic_id: i16,
    partitions: i32,
    /// The next offset by partition.
    next: BTreeMap<i32, i64>,
}

impl Intake {
    /// Limits the wait for PostgreSQL's answer.
    async fn bounded<T>(&self, work: impl Future<Output = Result<T, LedgerError>>) -> Result<T, LedgerError> {
        bounded(self.postgres.answer_limit(), work).await
    }

    /// Reads for a while. Returns whether this process reads, as opposed to another one.
    async fn session(&self) -> Result<bool, IntakeError> {
        let mut connection = self.postgres.connect_as("shipment-intake").await.map_err(LedgerError::from)?;
        if !self.bounded(postgres::try_lock(&mut connection, Lock::Shipments)).await? {
            return Ok(false);
        }
        cluster::ensure_current(&self.kafka, &mut connection).await?;
        let mut session = self.open(connection).await?;
        let soft = self.context.shutdown.soft();
        let (begun, mut looked) = (Instant::now(), None::<Instant>);
        while !soft.is_cancelled() && begun.elapsed() < SESSION_MAX {
            self.component.beat();
            for record in session.poll().await? {
                self.component.beat();
                self.take(&mut session, &record).await?;
            }
            if looked.is_none_or(|at| at.elapsed() >= LAG_INTERVAL) {
                looked = Some(Instant::now());
                gauge!(names::RECORDS_WAITING).set(session.waiting().await? as f64);
            }
        }
        Ok(true)
    }

    async fn open(&self, mut connection: PgConnection) -> Result<Session, IntakeError> {
        let name = self.kafka.topics().shipments();
        let wanted = [name.clone()];
        let ids = self.bounded(ledger::topic_ids(&mut connection, &wanted)).await?;
        let topic_id = ids.get(&name).copied().ok_or_else(|| TopicError::Missing(wanted.to_vec()))?;
        let reached = self.bounded(ledger::offsets(&mut connection, CONSUMER)).await?;
        let next = reached.into_iter().filter(|((id, _), _)| *id == topic_id);
        let next: BTreeMap<i32, i64> = next.map(|((_, partition), offset)| (partition, offset)).collect();
        let (kafka, topic, from) = (self.kafka.clone(), name.clone(), next.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let partitions = partitions_of(&kafka, &topic)?;
            let mut list = TopicPartitionList::new();
            for partition in 0..partitions {
                let offset = from.get(&partition).map_or(Offset::Beginning, |offset| Offset::Offset(*offset));
                list.add_partition_offset(&topic, partition, offset)?;
            }
            let consumer = ConsumerGuard::create(&kafka.consumer(CONSUMER))?;
            consumer.assign(&list)?;
            Ok::<_, IntakeError>((consumer, partitions))
        });
        let (consumer, partitions) = opened.await.map_err(|_| IntakeError::Panicked)??;
        let producer = self.kafka.producer().create()?;
        let (consumer, topic) = (Arc::new(consumer), name.as_str().into());
        Ok(Session { connection, consumer, producer, topic, topic_id, partitions, next })
    }

    /// Decides about a record.
    async fn take(&self, session: &mut Session, record: &Record) -> Result<(), IntakeError> {
        let outcome = match read(&record.payload) {
            Ok(new) => match self.bounded(self.add(session, record, &new)).await {
                // The data of the record itself is the reason.
                Err(error) if error.disposition() == Disposition::Isolate => {
                    let dead = DeadReason { reason: "database", detail: error.to_string() };
                    self.bury(session, record, &dead).await?
                }
                outcome => outcome?,
            },
            Err(dead) => self.bury(session, record, &dead).await?,
        };
        session.next.insert(record.partition, record.offset + 1);
        counter!(names::RECORDS, "outcome" => outcome).increment(1);
        Ok(())
    }

    /// Stores a shipment, or rejects it. Returns the outcome.
    async fn add(&self, session: &mut Session, record: &Record, new: &NewReport) -> Result<&'static str, LedgerError> {
        let now = self.context.clock.now();
        let position = record.position();
        let before = session.before(record);
        let mut transaction = session.connection.begin().await?;
        let outcome = match add::add(&mut transaction, new, now).await {
            Ok(StoredReport { report_id, repeated }) => {
                tracing::info!("shipment {report_id} of order {} was read from {position}", new.order_id);
                if repeated { "repeated" } else { "stored" }
            }
            Err(AddError::Sql(error)) => return Err(error.into()),
            Err(error) => {
                let (code, detail) = (error.code_name(), crate::messages::bounded(&error.to_string()));
                tracing::warn!("the shipment at {position} was rejected: {code}");
                let key = format!("{}:{}:{}", record.topic_id, record.partition, record.offset);
                let message = record::refused(new, &error, key);
                let rejection = Rejection { outcome: "refused", code, detail: &detail, new: Some(new) };
                // A record that is read again was told of when it was rejected.
                if store::reject(&mut transaction, record, &rejection, now).await? {
                    outbox::add(&mut transaction, message.as_slice(), now).await?;
                }
                "refused"
            }
        };
        advance(&mut transaction, record, &before).await?;
        transaction.commit().await?;
        Ok(outcome)
    }

    /// Publishes and stores a dead letter. It is published again if the process ends before it is stored.
    async fn bury(
        &self,
        session: &mut Session,
        record: &Record,
        dead: &DeadReason,
    ) -> Result<&'static str, IntakeError> {
        tracing::error!("the shipment at {} is a dead letter: {}: {}", record.position(), dead.reason, dead.detail);
        publish(&session.producer, &self.kafka.topics().dead_letter(), record, dead).await?;
        let before = session.before(record);
        let now = self.context.clock.now();
        let connection = &mut session.connection;
        let store = async {
            let mut transaction = connection.begin().await?;
            let rejection = Rejection { outcome: "dead", code: dead.reason, detail: &dead.detail, new: None };
            store::reject(&mut transaction, record, &rejection, now).await?;
            advance(&mut transaction, record, &before).await?;
            Ok(transaction.commit().await?)
        };
        self.bounded(store).await?;
        Ok("dead")
    }
}

impl Session {
    /// Returns the records that have arrived, at least one unless none comes for a moment.
    async fn poll(&self) -> Result<Vec<Record>, IntakeError> {
        let (consumer, topic, topic_id) = (Arc::clone(&self.consumer), Arc::clone(&self.topic), self.topic_id);
        let polled = tokio::task::spawn_blocking(move || {
            let (mut records, mut wait) = (Vec::new(), POLL_WAIT);
            while records.len() < BATCH_RECORDS {
                let Some(message) = consumer.poll(wait) else { break };
                let message = message?;
                records.push(Record::copy(&message, topic_id, Arc::clone(&topic)));
                wait = Duration::ZERO;
            }
            Ok(records)
        });
        polled.await.map_err(|_| IntakeError::Panicked)?
    }

    /// The offset from which this session read the record's partition; no offset before the first record.
    fn before(&self, record: &Record) -> ledger::Positions {
        let next = self.next.get(&record.partition).copied();
        HashMap::from([((record.topic_id, record.partition), next)])
    }

    /// Number of records that are not decided about yet.
    async fn waiting(&self) -> Result<i64, IntakeError> {
        let (consumer, topic) = (Arc::clone(&self.consumer), Arc::clone(&self.topic));
        let (partitions, next) = (self.partitions, self.next.clone());
        let counted = tokio::task::spawn_blocking(move || {
            let mut waiting = 0;
            for partition in 0..partitions {
                let (low, high) = consumer.fetch_watermarks(&topic, partition, REQUEST_TIMEOUT)?;
                waiting += (high - next.get(&partition).copied().unwrap_or(low)).max(0);
            }
            Ok(waiting)
        });
        counted.await.map_err(|_| IntakeError::Panicked)?
    }
}

/// Advances the consumer's offset past a record.
async fn advance(
    connection: &mut PgConnection,
    record: &Record,
    before: &ledger::Positions,
) -> Result<(), LedgerError> {
    let next = HashMap::from([((record.topic_id, record.partition), record.offset + 1)]);
    ledger::advance_offsets_after(connection, CONSUMER, &next, before).await
}

/// Publishes a dead letter with the headers that all dead letters have.
async fn publish(
    producer: &FutureProducer,
    topic: &str,
    record: &Record,
    dead: &DeadReason,
) -> Result<(), IntakeError> {
    let (partition, offset) = (record.partition.to_string(), record.offset.to_string());
    let headers = [
        ("dead-letter-topic", record.topic.as_ref()),
        ("dead-letter-partition", partition.as_str()),
        ("dead-letter-offset", offset.as_str()),
        ("dead-letter-reason", dead.reason),
        ("dead-letter-detail", dead.detail.as_str()),
        ("dead-letter-attempts", "1"),
    ];
    let headers = headers
        .into_iter()
        .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
    let key = record.key.clone().unwrap_or_default();
    let letter = FutureRecord::to(topic).key(&key).payload(&record.payload).headers(headers);
    let written = producer.send(letter, PUBLISH_TIMEOUT).await.map_err(|(error, _)| error)?;
    // A success without an offset is inferred, not reported; see ingest's producer.
    if written.offset < 0 { Err(IntakeError::Unconfirmed) } else { Ok(()) }
}
