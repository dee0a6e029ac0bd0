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
use riverlock_schemas::{Envelope, hash::Sha256Hash, kafka::record};
use serde::Serialize;

use super::{
    args::ReleaseOptions,
    reader::{Reader, header, stored_at, stored_delivery},
    verdict::{Authenticator, StoredDelivery, Verdict},
};
use crate::{
    config::Config,
    exit,
    options::change::ChangeOptions,
    terminal::{
        table::{Column, Layout, Table},
        text::{count, printable},
    },
};

/// How long a record may take to be written.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// Headers that have a meaning only in the quarantine, or that are written anew.
const DROPPED: [&str; 6] =
    [record::REASON, record::BASIC, record::BEARER, record::ORIGIN, record::SECRET_ID, record::RECEIVED_AT];

/// The result of a release, or of its dry run.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReleaseReport {
    /// Whether the changes were applied.
    pub(super) applied: bool,
    /// Released events.
    #[serde(rename = "admitted")]
    pub(super) released: u64,
    /// Further deliveries of a released event with the same body.
    pub(super) repeated: u64,
    /// Events that do not verify and stay in the quarantine.
    pub(super) held: u64,
    /// Requested events that are not in the quarantine.
    pub(super) missing: Vec<String>,
    pub(super) events: Vec<EventRelease>,
}

/// The release of one event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventRelease {
    event_id: String,
    /// The topic of the released event; absent if it stays in the quarantine.
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    verdict: String,
}

/// Who releases events, when and why, as the records store it.
struct Authorship {
    by: String,
    reason: String,
    at: String,
}

pub(super) async fn run(config: &Config, options: ReleaseOptions) -> anyhow::Result<ExitCode> {
    let (output, names_events) = (options.change.output, !options.all);
    let report = release(config, options).await?;
    output.whole(&report, |text| report.write(text))?;
    // All events that are named must be released; with --all, those that verify.
    Ok(exit::success_if(report.missing.is_empty() && !(names_events && report.held > 0)))
}

impl ReleaseReport {
    fn write(&self, text: &mut String) -> std::fmt::Result {
        const COLUMNS: [Column; 3] = [Column::text("EVENT"), Column::text("RESULT"), Column::text("SIGNATURE")];
        let mut table = Table::new(&COLUMNS);
        for EventRelease { event_id, topic, verdict } in &self.events {
            let result = match topic {
                Some(topic) if self.applied => format!("released to {topic}"),
                Some(topic) => format!("would be released to {topic}"),
                None => "stays in the quarantine".to_owned(),
            };
            table.row([event_id.clone(), result, verdict.clone()]);
        }
        text.push_str(&table.render(Layout::of_lists(), ""));
        self.missing.iter().try_for_each(|id| writeln!(text, "{}: not in the quarantine", printable(id)))?;
        let Self { released, repeated, held, .. } = *self;
        let (events, repeated) = (count(released, "event"), count(repeated, "repeated record"));
        match self.applied {
            true => writeln!(text, "{events} released, {repeated}, {held} stay in the quarantine"),
            false => writeln!(
                text,
                "{events} would be released, {repeated}, {held} would stay in the quarantine; apply with --apply --reason TEXT"
            ),
        }
    }
}

pub(super) async fn release(config: &Config, options: ReleaseOptions) -> anyhow::Result<ReleaseReport> {
    let now = SystemClock.now();
    let ReleaseOptions { all, id: ids, signature_only, ignore_age, change } = options;
    let ChangeOptions { reason, operator, apply, .. } = change;
    let author = Authorship {
        by: operator.name()?,
        reason: reason.of_run(apply)?,
        at: now.to_rfc3339_opts(SecondsFormat::Secs, true),
    };
    let authenticator = Authenticator::new(&config.ingest, now);
    let producer: FutureProducer = config.kafka.producer().create().context("creating the Kafka producer")?;
    let mut report = ReleaseReport { applied: apply, ..ReleaseReport::default() };
    let (mut found, mut released) = (HashSet::new(), HashSet::new());
    let mut reader = Reader::open(&config.kafka, None)?;
    while let Some(message) = reader.next()? {
        let id = header(&message, record::EVENT_ID);
        if !all && !ids.iter().any(|wanted| wanted == id) {
            continue;
        }
        found.insert(id.to_owned());
        let (delivery, stored_at): (StoredDelivery<'_>, _) = (stored_delivery(&message), stored_at(&message));
        let verdict = authenticator.authenticate(&delivery, stored_at);
        let text = verdict.to_string();
        let (secret, age_ignored) = match verdict {
            Verdict::Verifies { secret } => (secret, false),
            Verdict::SignatureOnly { secret, .. } if signature_only => (secret, false),
            Verdict::OtherTime { secret, lacks, .. } if ignore_age && (lacks.is_none() || signature_only) => {
                (secret, true)
            }
            _ => {
                report.held += 1;
                report.events.push(EventRelease { event_id: id.to_owned(), topic: None, verdict: text });
                continue;
            }
        };
        if !released.insert((id.to_owned(), Sha256Hash::of(delivery.body))) {
            report.repeated += 1;
            continue;
        }
        // Ingest stores only events; a version that parses fewer bodies as events must not fail for all others.
        let Ok(envelope) = Envelope::parse(delivery.body) else {
            report.held += 1;
            let verdict = "this version does not parse it as an event".to_owned();
            report.events.push(EventRelease { event_id: id.to_owned(), topic: None, verdict });
            continue;
        };
        let topic = config.kafka.topics().raw(&envelope.event_type);
        if apply {
            let is_timely = age_ignored || authenticator.is_timely(&delivery);
            let received_at = if is_timely { delivery.received_at.to_owned() } else { kafka_time(stored_at) };
            let headers = released_headers(&message, secret, &received_at, age_ignored, &author);
            let key = record::bounded(envelope.order_id.as_deref().unwrap_or(&envelope.id));
            write(&producer, &topic, &key, delivery.body, headers)
                .await
                .with_context(|| format!("writing event {} to {topic}", printable(id)))?;
        }
        report.events.push(EventRelease { event_id: id.to_owned(), topic: Some(topic), verdict: text });
        report.released += 1;
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
    // A success without an offset was not reported by the broker; see ingest's producer.
    anyhow::ensure!(written.offset >= 0, "Kafka did not report an offset; run the command again");
    Ok(())
}

/// The time by Kafka's clock, in ingest's format.
fn kafka_time(stored_at: Option<DateTime<Utc>>) -> String {
    stored_at.map(|time| time.to_rfc3339_opts(SecondsFormat::Micros, true)).unwrap_or_default()
}

/// The headers of a delivered event, and its origin. `received_at` is by the clock that was right.
fn released_headers(
    message: &BorrowedMessage<'_>,
    secret_id: &str,
    received_at: &str,
    age_ignored: bool,
    author: &Authorship,
) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new();
    for header in message.headers().into_iter().flat_map(Headers::iter) {
        if !DROPPED.contains(&header.key) {
            headers = headers.insert(header);
        }
    }
    let added = [
        (record::RECEIVED_AT, received_at),
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
