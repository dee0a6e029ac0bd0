//! A lower bound for the processor: records are read, hashed and parsed, and nothing is applied or written. In a separate
//! process: this program with other arguments.

use std::{
    hint::black_box,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rdkafka::{
    Message as _,
    consumer::{BaseConsumer, Consumer as _},
};
use riverlock_ledger::{
    Projection as _,
    reading::ranges::{OffsetRange, RangeReader},
};
use riverlock_processor::{Orders, ProcessorConfig};
use riverlock_runtime::kafka::{KafkaConfig, REQUEST_TIMEOUT};
use riverlock_sandbox::stack::{Process, usage};
use riverlock_schemas::hash::Sha256Hash;
use serde::{Deserialize, Serialize};

/// The first argument of the reading process.
pub(crate) const COMMAND: &str = "floor";
/// Its time limit.
const WITHIN: Duration = Duration::from_secs(600);

/// The number of records, and the resources used.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Understood {
    pub(crate) records: usize,
    pub(crate) took: Duration,
    pub(crate) cpu: Duration,
}

/// Reads about this many records in a separate process.
pub(crate) async fn run(brokers: &str, events: usize, home: &Path) -> anyhow::Result<Understood> {
    let mut command = Command::new(std::env::current_exe().context("this program has no path")?);
    command.args([COMMAND, brokers, &events.to_string()]);
    let log = home.join("floor.log");
    let process = Process::spawn("floor", &command, &log)?;
    let status = tokio::time::timeout(WITHIN, process.wait()).await.context("reading does not end")??;
    let text = std::fs::read_to_string(&log)?;
    let last = text.lines().last().filter(|_| status.success()).unwrap_or_default();
    serde_json::from_str(last).map_err(|_| process.failure(&format!("ended with {status}")))
}

/// Reads in this process, and prints the resources used.
pub(crate) fn read(brokers: &str, events: usize) -> anyhow::Result<()> {
    let kafka = KafkaConfig { brokers: brokers.to_owned(), ..super::stage::kafka_config() };
    let mut reader = RangeReader::open(&kafka, "riverlock-bench-floor", ranges(&kafka, events)?)?;
    let orders = Orders::new(ProcessorConfig::default().modes);
    let pid = i32::try_from(std::process::id())?;
    let (started, before, mut records) = (Instant::now(), usage::cpu(pid)?, 0);
    while let Some(message) = reader.read()? {
        let body = message.payload().unwrap_or_default();
        black_box((Sha256Hash::of(body), orders.read(body, None).is_ok()));
        records += 1;
    }
    let understood = Understood { records, took: started.elapsed(), cpu: usage::cpu(pid)? - before };
    println!("{}", serde_json::to_string(&understood)?);
    Ok(())
}

/// The first records of every partition, about this many in total.
fn ranges(kafka: &KafkaConfig, events: usize) -> anyhow::Result<Vec<OffsetRange>> {
    let client: BaseConsumer = kafka.client().create()?;
    let topics = kafka.topics().orders();
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let metadata = client.fetch_metadata(None, REQUEST_TIMEOUT)?;
    let mut ranges = Vec::new();
    for topic in metadata.topics().iter().filter(|topic| names.contains(&topic.name())) {
        for partition in topic.partitions() {
            let (start, end) = client.fetch_watermarks(topic.name(), partition.id(), REQUEST_TIMEOUT)?;
            ranges.push(OffsetRange { topic: topic.name().to_owned(), partition: partition.id(), start, end });
        }
    }
    let (events, all) = (u64::try_from(events)?, ranges.iter().map(OffsetRange::records).sum::<u64>().max(1));
    for range in &mut ranges {
        range.end = range.start + i64::try_from(range.records() * events / all)?;
    }
    Ok(ranges)
}
