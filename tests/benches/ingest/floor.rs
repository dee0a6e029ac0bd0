//! The cost of librdkafka alone: a lower bound for ingest.
//!
//! A process that hands the same bodies to the same topics at the same rate, with ingest's settings and headers as long as
//! ingest's, and does nothing else: no HTTP, no signature, no envelope, one thread besides librdkafka's own. As in the load
//! generator what falls into one millisecond is sent together. The full way cannot cost less than verify-and-parse and this.

use std::{
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rdkafka::{
    ClientContext,
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext},
};
use riverlock_runtime::kafka::KafkaConfig;
use riverlock_schemas::Envelope;

use super::{rounds, server};

/// The first argument of the producing process.
pub(crate) const COMMAND: &str = "produce";
/// The interval at which records are sent and delivery reports fetched.
const TICK: Duration = Duration::from_millis(1);
/// How long Kafka may take to acknowledge the last records.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// As long as the headers that ingest writes, in bytes.
const HEADERS: [(&str, usize); 8] = [
    ("event-id", 36),
    ("event-type", 14),
    ("live-mode", 5),
    ("endpoint", 5),
    ("received-at", 27),
    ("signature", 56),
    ("secret-id", 5),
    ("origin", 7),
];

/// Counts reports.
#[derive(Default)]
struct Reports {
    stored: AtomicU64,
    failed: AtomicU64,
}

impl Reports {
    fn served(&self) -> u64 {
        self.stored.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed)
    }
}

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, report: &DeliveryResult<'_>, (): ()) {
        let count = if report.is_ok() { &self.stored } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs the process; returns the CPU time per record in microseconds.
pub(crate) async fn measure(brokers: &str, rate: u64, seconds: u64, properties: &[String]) -> anyhow::Result<f64> {
    let mut command = Command::new(std::env::current_exe().context("this program has no path")?);
    command.args([COMMAND, brokers, &rate.to_string(), &seconds.to_string()]).args(properties);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(output.status.success(), "producing failed: {}", String::from_utf8_lossy(&output.stderr));
    text.trim().parse().with_context(|| format!("{text} is not a number"))
}

/// Produces, and prints the CPU time per record.
#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 records")]
pub(crate) fn produce(brokers: &str, rate: u64, seconds: u64, properties: &[String]) -> anyhow::Result<()> {
    let kafka = server::kafka(brokers, properties)?;
    let records = records(&kafka)?;
    let producer: BaseProducer<Reports> = kafka.producer().create_with_context(Reports::default())?;
    // Connections and buffers are created before the measurement.
    for index in 0..rate {
        send(&producer, &records, index)?;
    }
    producer.flush(FLUSH_TIMEOUT)?;
    let (before, start, count) = (server::cpu_of(std::process::id())?, Instant::now(), rate * seconds);
    let mut sent = 0;
    while sent < count {
        std::thread::sleep(TICK);
        let due = u64::try_from(start.elapsed().as_micros())? * rate / 1_000_000;
        while sent < due.min(count) {
            send(&producer, &records, sent)?;
            sent += 1;
        }
        drain(&producer);
    }
    producer.flush(FLUSH_TIMEOUT)?;
    let cpu = server::cpu_of(std::process::id())? - before;
    let failed = producer.context().failed.load(Ordering::Relaxed);
    anyhow::ensure!(failed == 0, "{failed} records were not stored");
    println!("{}", cpu.as_secs_f64() * 1e6 / count as f64);
    Ok(())
}

/// Topic, key and value of every body.
fn records(kafka: &KafkaConfig) -> anyhow::Result<Vec<(String, String, bytes::Bytes)>> {
    let topics = kafka.topics();
    let record = |body: bytes::Bytes| {
        let envelope = Envelope::parse(&body)?;
        let key = envelope.order_id.as_deref().unwrap_or(&envelope.id).to_owned();
        Ok((topics.raw(&envelope.event_type), key, body.clone()))
    };
    rounds::bodies().into_iter().map(record).collect()
}

fn send(
    producer: &BaseProducer<Reports>,
    records: &[(String, String, bytes::Bytes)],
    index: u64,
) -> anyhow::Result<()> {
    let (topic, key, body) = &records[usize::try_from(index)? % records.len()];
    let value = [b'x'; 64];
    let headers = HEADERS.iter().fold(OwnedHeaders::new_with_capacity(HEADERS.len()), |headers, (key, length)| {
        headers.insert(Header { key, value: Some(&value[..*length]) })
    });
    let record = BaseRecord::to(topic).key(key).payload(&body[..]).headers(headers);
    producer.send(record).map_err(|(error, _)| error).context("a record was not accepted")
}

/// Fetches the available delivery reports: a poll without a timeout handles at most one batch.
fn drain(producer: &BaseProducer<Reports>) {
    loop {
        let before = producer.context().served();
        producer.poll(Duration::ZERO);
        if producer.context().served() == before {
            return;
        }
    }
}
