//! `riverlock quarantine`: events whose sender was not believed when they came.
//!
//! What is kept is verified again with the secrets of today and the time at which it came. What passes goes to the topic of
//! its type as if it had come through the front door, and says in `origin` that it did not. Releasing twice writes twice,
//! which does no harm: consumers know an event by its id.

use std::{collections::HashSet, path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::Consumer,
    message::{BorrowedMessage, Header, Headers, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use riverlock_runtime::{
    Clock as _, Closing, SystemClock,
    kafka::{KafkaConfig, REQUEST_TIMEOUT},
};
use riverlock_schemas::{Envelope, hash::Sha256Hash, record};
use serde::Serialize;

use crate::{
    args::{QuarantineCommand, ReleaseOptions},
    config::Config,
};

pub(crate) mod verdict;

use verdict::{Judge, Kept, Verdict};

/// How long Kafka may send nothing while records are still to come.
const STALL_MAX: Duration = Duration::from_secs(30);

/// How long a record may take to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// An event in quarantine, as it is listed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    received_at: &'a str,
    endpoint: &'a str,
    event_type: &'a str,
    event_id: &'a str,
    reason: &'a str,
    verdict: String,
    releasable: bool,
}

pub(crate) async fn run(file: Option<&Path>, command: QuarantineCommand) -> anyhow::Result<ExitCode> {
    let config = Config::load_with_kafka(file)?;
    config.ingest.validate()?;
    match command {
        QuarantineCommand::List { json } => {
            let count = list(&config, json)?;
            if !json {
                println!("{count} events are in quarantine");
            }
            Ok(ExitCode::SUCCESS)
        }
        QuarantineCommand::Release(options) => {
            let report = release(&config, &options).await?;
            println!("{report}");
            let missing = options.id.iter().any(|id| !report.found.contains(id));
            Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
    }
}

fn list(config: &Config, json: bool) -> anyhow::Result<u64> {
    let judge = Judge::new(&config.ingest, SystemClock.now());
    let mut count = 0;
    let mut reader = Reader::open(&config.kafka)?;
    while let Some(message) = reader.next()? {
        let kept = kept(&message);
        let verdict = judge.judge(&kept);
        let row = Row {
            received_at: kept.received_at,
            endpoint: kept.endpoint,
            event_type: header(&message, record::EVENT_TYPE),
            event_id: header(&message, record::EVENT_ID),
            reason: header(&message, record::REASON),
            releasable: matches!(verdict, Verdict::Verifies { .. }),
            verdict: verdict.to_string(),
        };
        if json {
            println!("{}", serde_json::to_string(&row)?);
        } else {
            let Row { received_at, endpoint, event_type, event_id, reason, verdict, .. } = row;
            println!(
                "{received_at}  {endpoint}  {}  {}  {reason}  {verdict}",
                event_type.escape_debug(),
                event_id.escape_debug()
            );
        }
        count += 1;
    }
    Ok(count)
}

/// What was released, or would be.
#[derive(Debug, Default)]
struct Report {
    applied: bool,
    admitted: u64,
    /// The same event with the same body, kept once for each of Digital River's tries.
    repeated: u64,
    held: u64,
    found: HashSet<String>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { admitted, repeated, held, .. } = self;
        let what = if self.applied { "admitted" } else { "would be admitted (say --apply to do it)" };
        write!(
            f,
            "{admitted} events {what}, {repeated} are further tries of the same events, {held} stay in quarantine"
        )
    }
}

async fn release(config: &Config, options: &ReleaseOptions) -> anyhow::Result<Report> {
    let judge = Judge::new(&config.ingest, SystemClock.now());
    let topics = config.kafka.topics();
    let producer: FutureProducer = config.kafka.producer().create().context("the producer cannot be made")?;
    let mut report = Report { applied: options.apply, ..Report::default() };
    let mut admitted = HashSet::new();
    let mut reader = Reader::open(&config.kafka)?;
    while let Some(message) = reader.next()? {
        let id = header(&message, record::EVENT_ID);
        if !options.all && !options.id.iter().any(|wanted| wanted == id) {
            continue;
        }
        report.found.insert(id.to_owned());
        let kept = kept(&message);
        let verdict = judge.judge(&kept);
        let secret = match &verdict {
            Verdict::Verifies { secret } => *secret,
            Verdict::SignatureOnly { secret, .. } if options.signature_only => *secret,
            _ => {
                println!("{}  stays: {verdict}", id.escape_debug());
                report.held += 1;
                continue;
            }
        };
        if !admitted.insert((id.to_owned(), Sha256Hash::of(kept.body))) {
            report.repeated += 1;
            continue;
        }
        let envelope = Envelope::parse(kept.body).context("the quarantine holds what is no event")?;
        let topic = topics.raw(&envelope.event_type);
        println!("{}  {}  to {topic}", id.escape_debug(), if options.apply { "goes" } else { "would go" });
        if options.apply {
            let key = record::bounded(envelope.order_id.as_deref().unwrap_or(&envelope.id));
            let record = FutureRecord::to(&topic)
                .key(key.as_ref())
                .payload(kept.body)
                .headers(released_headers(&message, secret));
            let written = producer.send(record, WRITE_TIMEOUT).await;
            let written = written
                .map_err(|(error, _)| error)
                .with_context(|| format!("event {id} could not be written to {topic}"))?;
            // A success without an offset is only concluded, not reported; see ingest's producer.
            anyhow::ensure!(written.offset >= 0, "Kafka did not say where event {id} lies in {topic}; run it again");
        }
        report.admitted += 1;
    }
    Ok(report)
}

/// The headers of an event that came through the front door, and where it really comes from.
fn released_headers(message: &BorrowedMessage<'_>, secret_id: &str) -> OwnedHeaders {
    let dropped = [record::REASON, record::BASIC, record::BEARER, record::ORIGIN, record::SECRET_ID];
    let mut headers = OwnedHeaders::new();
    for header in message.headers().into_iter().flat_map(Headers::iter) {
        if !dropped.contains(&header.key) {
            headers = headers.insert(header);
        }
    }
    headers
        .insert(Header { key: record::SECRET_ID, value: Some(secret_id) })
        .insert(Header { key: record::ORIGIN, value: Some(record::ORIGIN_QUARANTINE) })
}

/// A header as text; empty when there is none.
fn header<'a>(message: &'a BorrowedMessage<'_>, name: &str) -> &'a str {
    let headers = message.headers();
    let value = headers.and_then(|headers| headers.iter().find(|header| header.key == name)?.value);
    value.and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default()
}

fn kept<'a>(message: &'a BorrowedMessage<'_>) -> Kept<'a> {
    Kept {
        endpoint: header(message, record::ENDPOINT),
        received_at: header(message, record::RECEIVED_AT),
        signature: header(message, record::SIGNATURE),
        basic: header(message, record::BASIC),
        bearer: header(message, record::BEARER),
        body: message.payload().unwrap_or_default(),
    }
}

/// Reads the quarantine from its beginning to where it ended when it was opened.
struct Reader {
    consumer: Closing,
    /// Partitions that are not read to their end, with that end.
    left: Vec<(i32, i64)>,
}

impl Reader {
    fn open(kafka: &KafkaConfig) -> anyhow::Result<Self> {
        let topic = kafka.topics().quarantine();
        let consumer = Closing::create(&kafka.consumer("quarantine"))?;
        let (mut left, mut assignment) = (Vec::new(), TopicPartitionList::new());
        for partition in 0..kafka.partitions {
            let (low, high) = consumer.fetch_watermarks(&topic, partition, REQUEST_TIMEOUT).with_context(|| {
                format!("Kafka does not tell where topic {topic} ends (`riverlock setup` creates it)")
            })?;
            if high > low {
                left.push((partition, high));
                assignment.add_partition_offset(&topic, partition, Offset::Offset(low))?;
            }
        }
        consumer.assign(&assignment)?;
        Ok(Self { consumer, left })
    }

    fn next(&mut self) -> anyhow::Result<Option<BorrowedMessage<'_>>> {
        if self.left.is_empty() {
            return Ok(None);
        }
        let message = self.consumer.poll(STALL_MAX).context("Kafka sends nothing more of the quarantine")??;
        // What came after it was opened is read on the way to the other partitions' ends; it does no harm.
        self.left.retain(|(partition, end)| *partition != message.partition() || message.offset() + 1 < *end);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests;
