//! `riverlock quarantine release`.

use std::{collections::HashSet, fmt::Write as _, process::ExitCode, time::Duration};

use anyhow::Context as _;
use chrono::{DateTime, SecondsFormat, Utc};
use rdkafka::{
    Message as _,
    message::{BorrowedMessage, Header, Headers, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use riverlock_runtime::{Clock as _, SystemClock};
use riverlock_schemas::{Envelope, hash::Sha256Hash, record};
use serde::Serialize;

use super::{
    reader::{Reader, header, kept, stored_at},
    shown,
    verdict::{Judge, Verdict},
};
use crate::{config::Config, exit, repair::quarantine::args::ReleaseOptions};

/// How long a record may take to be written.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// Headers that are only of use in quarantine, or are written anew.
const DROPPED: [&str; 6] =
    [record::REASON, record::BASIC, record::BEARER, record::ORIGIN, record::SECRET_ID, record::RECEIVED_AT];

/// What was done, or would be.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Whether it was done.
    pub(super) applied: bool,
    /// Events that go to the topic of their type.
    pub(super) admitted: u64,
    /// The same event with the same body, kept once for each of Digital River's tries.
    pub(super) repeated: u64,
    /// Events that stay, because they do not verify.
    pub(super) held: u64,
    /// Events that were named and are not there.
    pub(super) missing: Vec<String>,
    pub(super) events: Vec<Event>,
}

/// What becomes of an event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event {
    event_id: String,
    /// Where it goes; absent if it stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    verdict: String,
}

/// Who releases, when and why, for the record.
struct Author {
    by: String,
    reason: String,
    at: String,
}

pub(super) async fn run(config: &Config, options: ReleaseOptions) -> anyhow::Result<ExitCode> {
    let (output, names_events) = (options.output, !options.all);
    let report = release(config, options).await?;
    output.whole(&report, |text| {
        for Event { event_id, topic, verdict } in &report.events {
            let id = shown(event_id);
            match topic {
                Some(topic) if report.applied => writeln!(text, "{id}  went to {topic}")?,
                Some(topic) => writeln!(text, "{id}  would go to {topic}: {verdict}")?,
                None => writeln!(text, "{id}  stays: {verdict}")?,
            }
        }
        report.missing.iter().try_for_each(|id| writeln!(text, "{}  is not in quarantine", shown(id)))?;
        let Report { admitted, repeated, held, .. } = &report;
        let what = if report.applied { "admitted" } else { "would be admitted (--apply does it)" };
        writeln!(
            text,
            "{admitted} events {what}, {repeated} are further tries of the same events, {held} stay in quarantine"
        )
    })?;
    // Of events that are named, all are to go; of all events, those that verify.
    Ok(exit::well_if(report.missing.is_empty() && !(names_events && report.held > 0)))
}

pub(super) async fn release(config: &Config, options: ReleaseOptions) -> anyhow::Result<Report> {
    let now = SystemClock.now();
    let ReleaseOptions { all, id: ids, signature_only, ignore_age, reason, by, apply, .. } = options;
    let author = Author {
        by: by.name()?,
        reason: if apply { reason.needed()? } else { reason.of_dry_run() },
        at: now.to_rfc3339_opts(SecondsFormat::Secs, true),
    };
    let judge = Judge::new(&config.ingest, now);
    let producer: FutureProducer = config.kafka.producer().create().context("the producer cannot be made")?;
    let mut report = Report { applied: apply, ..Report::default() };
    let (mut found, mut admitted) = (HashSet::new(), HashSet::new());
    let mut reader = Reader::open(&config.kafka, None)?;
    while let Some(message) = reader.next()? {
        let id = header(&message, record::EVENT_ID);
        if !all && !ids.iter().any(|wanted| wanted == id) {
            continue;
        }
        found.insert(id.to_owned());
        let (kept, stored_at) = (kept(&message), stored_at(&message));
        let verdict = judge.judge(&kept, stored_at);
        let text = verdict.to_string();
        let (secret, age_ignored) = match verdict {
            Verdict::Verifies { secret } => (secret, false),
            Verdict::SignatureOnly { secret, .. } if signature_only => (secret, false),
            Verdict::OtherTime { secret, lacks, .. } if ignore_age && (lacks.is_none() || signature_only) => {
                (secret, true)
            }
            _ => {
                report.held += 1;
                report.events.push(Event { event_id: id.to_owned(), topic: None, verdict: text });
                continue;
            }
        };
        if !admitted.insert((id.to_owned(), Sha256Hash::of(kept.body))) {
            report.repeated += 1;
            continue;
        }
        // What ingest kept is an event; a version that reads less as one must not make this command fail for all others.
        let Ok(envelope) = Envelope::parse(kept.body) else {
            report.held += 1;
            let verdict = "is no event for this version".to_owned();
            report.events.push(Event { event_id: id.to_owned(), topic: None, verdict });
            continue;
        };
        let topic = config.kafka.topics().raw(&envelope.event_type);
        if apply {
            let in_time = age_ignored || judge.is_in_time(&kept);
            let came_at = if in_time { kept.received_at.to_owned() } else { by_kafka(stored_at) };
            let headers = released_headers(&message, secret, &came_at, age_ignored, &author);
            let key = record::bounded(envelope.order_id.as_deref().unwrap_or(&envelope.id));
            write(&producer, &topic, &key, kept.body, headers)
                .await
                .with_context(|| format!("event {} could not be written to {topic}", shown(id)))?;
        }
        report.events.push(Event { event_id: id.to_owned(), topic: Some(topic), verdict: text });
        report.admitted += 1;
    }
    report.missing = ids.into_iter().filter(|id| !found.contains(id)).collect();
    Ok(report)
}

async fn write(
    producer: &FutureProducer,
    topic: &str,
    key: &str,
    body: &[u8],
    headers: OwnedHeaders,
) -> anyhow::Result<()> {
    let record = FutureRecord::to(topic).key(key).payload(body).headers(headers);
    let written = producer.send(record, WRITE_TIMEOUT).await.map_err(|(error, _)| error)?;
    // A success without an offset is only concluded, not reported; see ingest's producer.
    anyhow::ensure!(written.offset >= 0, "Kafka did not say where it lies; run it again");
    Ok(())
}

/// The time by Kafka's clock, as ingest writes times.
fn by_kafka(stored_at: Option<DateTime<Utc>>) -> String {
    stored_at.map(|time| time.to_rfc3339_opts(SecondsFormat::Micros, true)).unwrap_or_default()
}

/// The headers of an event that came as a webhook, and where it really comes from. `came_at` is by the clock that was right.
fn released_headers(
    message: &BorrowedMessage<'_>,
    secret_id: &str,
    came_at: &str,
    age_ignored: bool,
    author: &Author,
) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new();
    for header in message.headers().into_iter().flat_map(Headers::iter) {
        if !DROPPED.contains(&header.key) {
            headers = headers.insert(header);
        }
    }
    let added = [
        (record::RECEIVED_AT, came_at),
        (record::SECRET_ID, secret_id),
        (record::ORIGIN, record::ORIGIN_QUARANTINE),
        (record::RELEASED_BY, author.by.as_str()),
        (record::RELEASED_AT, author.at.as_str()),
        (record::RELEASE_REASON, author.reason.as_str()),
    ];
    for (key, value) in added {
        headers = headers.insert(Header { key, value: Some(value) });
    }
    if age_ignored {
        headers = headers.insert(Header { key: record::AGE_IGNORED, value: Some(record::TRUE) });
    }
    headers
}
