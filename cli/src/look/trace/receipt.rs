//! The record itself, read again from Kafka, and what is to be thought of it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use rdkafka::{
    Message as _,
    consumer::BaseConsumer,
    message::{BorrowedMessage, Headers as _},
};
use riverlock_ledger::reading::ranges::{OffsetRange, RangeError, RangeReader, limits};
use riverlock_runtime::kafka::KafkaConfig;
use riverlock_schemas::{
    hash::Sha256Hash,
    record::{self, Position},
    time::parse_time,
    topics::is_of_earlier_cluster,
};
use serde::Serialize;

use crate::repair::quarantine::verdict::{Judge, Kept, Verdict};

/// How Kafka's logs call this.
const GROUP: &str = "trace";

/// What Kafka has under a position.
#[derive(Debug)]
pub(super) enum Found {
    Record(Raw),
    /// Kafka does not have it, for this reason.
    Gone(String),
    /// Kafka could not be asked, for this reason.
    Unreadable(String),
}

/// A record, copied out of Kafka's buffers.
#[derive(Debug, Default)]
pub(super) struct Raw {
    headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Raw {
    fn copy(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
        Self {
            headers: headers.map(|header| (header.key.to_owned(), text(header.value))).collect(),
            body: message.payload().unwrap_or_default().to_vec(),
        }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }
}

/// How a record came, and whether it is still what it was.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Receipt {
    /// `read`, `gone` or `unreadable`.
    pub(super) state: &'static str,
    /// Why there is no record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// When ingest took the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) received_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) endpoint: Option<String>,
    /// `webhook`, `quarantine` or another way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) origin: Option<String>,
    /// Which secret matched when it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) body_bytes: Option<usize>,
    /// SHA-256 of the body that Kafka has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) body_sha256: Option<Sha256Hash>,
    /// Whether that is the body that was audited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) as_audited: Option<bool>,
    /// `verified`, `wrong` or `unverifiable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) signature: Option<&'static str>,
    /// The same as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) verdict: Option<String>,
}

impl Receipt {
    pub(super) fn new(found: &Found, audited_sha256: &str, judge: &Judge<'_>) -> Self {
        match found {
            Found::Gone(reason) => Self { state: "gone", reason: Some(reason.clone()), ..Self::default() },
            Found::Unreadable(reason) => Self { state: "unreadable", reason: Some(reason.clone()), ..Self::default() },
            Found::Record(raw) => {
                let sha256 = Sha256Hash::of(&raw.body);
                let (signature, verdict) = verify(raw, judge);
                let header = |name| Some(raw.header(name).to_owned()).filter(|text| !text.is_empty());
                Self {
                    state: "read",
                    reason: None,
                    received_at: header(record::RECEIVED_AT),
                    endpoint: header(record::ENDPOINT),
                    origin: header(record::ORIGIN),
                    secret_id: header(record::SECRET_ID),
                    traceparent: header(record::TRACEPARENT),
                    body_bytes: Some(raw.body.len()),
                    body_sha256: Some(sha256),
                    as_audited: Some(sha256.to_string() == audited_sha256),
                    signature: Some(signature),
                    verdict: Some(verdict),
                }
            }
        }
    }

    /// Whether nothing speaks against the record.
    pub(super) fn is_intact(&self) -> bool {
        self.as_audited != Some(false) && self.signature != Some(WRONG)
    }
}

const VERIFIED: &str = "verified";
const WRONG: &str = "wrong";
const UNVERIFIABLE: &str = "unverifiable";

/// Verifies a record's signature with the secrets that are configured and counted when it came.
fn verify(raw: &Raw, judge: &Judge<'_>) -> (&'static str, String) {
    let (endpoint, received_at) = (raw.header(record::ENDPOINT), raw.header(record::RECEIVED_AT));
    let secret_id = raw.header(record::SECRET_ID);
    if raw.header(record::ORIGIN) == record::ORIGIN_RECONCILE {
        return (UNVERIFIABLE, "not signed: it was fetched from Digital River's Events API".to_owned());
    }
    let kept = Kept {
        endpoint,
        received_at,
        signature: raw.header(record::SIGNATURE),
        basic: "",
        bearer: "",
        body: &raw.body,
    };
    let Some(time) = parse_time(received_at) else {
        return (UNVERIFIABLE, Verdict::NoTime.to_string());
    };
    let verdict = if raw.header(record::AGE_IGNORED) == record::TRUE {
        judge.signature_of_any_age(&kept, time)
    } else {
        judge.signature(&kept, time)
    };
    match verdict {
        Verdict::Verifies { .. } => (VERIFIED, verdict.to_string()),
        Verdict::Wrong(_) if !secret_id.is_empty() && !judge.knows(endpoint, secret_id) => (
            UNVERIFIABLE,
            format!("cannot be verified: secret {secret_id} is not configured any more or cannot be read"),
        ),
        Verdict::Wrong(_) => (WRONG, verdict.to_string()),
        Verdict::SignatureOnly { .. }
        | Verdict::OtherTime { .. }
        | Verdict::NoSignatures
        | Verdict::NoEndpoint
        | Verdict::NoTime => (UNVERIFIABLE, verdict.to_string()),
    }
}

/// Reads these records and no others. Blocks; that Kafka does not answer is found out once, and then said of every record.
pub(super) fn read(kafka: &KafkaConfig, wanted: &BTreeSet<Position>) -> anyhow::Result<BTreeMap<Position, Found>> {
    let mut found = BTreeMap::new();
    let mut there = Vec::new();
    let consumer: BaseConsumer = kafka.client().create().context("the Kafka client cannot be made")?;
    let mut ends = BTreeMap::new();
    let mut unreachable: Option<String> = None;
    for position in wanted {
        if is_of_earlier_cluster(&position.topic) {
            found.insert(position.clone(), Found::Gone("it was in an earlier Kafka cluster".to_owned()));
            continue;
        }
        if let Some(reason) = &unreachable {
            found.insert(position.clone(), Found::Unreadable(reason.clone()));
            continue;
        }
        let ask = || limits(&consumer, &position.topic, position.partition);
        match ends.entry((position.topic.as_str(), position.partition)).or_insert_with(ask) {
            Ok((low, high)) if (*low..*high).contains(&position.offset) => there.push(position.clone()),
            Ok((low, high)) => {
                let reason = format!("{} has the offsets from {low} to before {high}", position.topic);
                found.insert(position.clone(), Found::Gone(reason));
            }
            Err(error @ RangeError::Unavailable { .. }) => {
                found.insert(position.clone(), Found::Unreadable(error.to_string()));
            }
            Err(error) => {
                let reason = format!("Kafka cannot be asked: {error}");
                found.insert(position.clone(), Found::Unreadable(reason.clone()));
                unreachable = Some(reason);
            }
        }
    }
    drop(consumer);
    read_present(kafka, there, &mut found)?;
    Ok(found)
}

/// Reads records of which Kafka said that they are there.
fn read_present(
    kafka: &KafkaConfig,
    mut wanted: Vec<Position>,
    found: &mut BTreeMap<Position, Found>,
) -> anyhow::Result<()> {
    while !wanted.is_empty() {
        let mut reader = RangeReader::open(kafka, GROUP, wanted.iter().map(range))?;
        let ended = loop {
            match reader.read() {
                Ok(Some(message)) => {
                    let (topic, partition, offset) =
                        (message.topic().to_owned(), message.partition(), message.offset());
                    found.insert(Position { topic, partition, offset }, Found::Record(Raw::copy(&message)));
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        wanted.retain(|position| !found.contains_key(position));
        match ended {
            // What is left lies in gaps: Kafka has the offsets around it.
            None => {
                let gone = |position| (position, Found::Gone("no record there".to_owned()));
                found.extend(wanted.drain(..).map(gone));
            }
            Some(RangeError::Gone { range, reason }) => {
                let position = Position { topic: range.topic, partition: range.partition, offset: range.start };
                wanted.retain(|other| *other != position);
                found.insert(position, Found::Gone(reason));
            }
            Some(error) => {
                let reason = format!("{:#}", anyhow::Error::from(error));
                found.extend(wanted.drain(..).map(|position| (position, Found::Unreadable(reason.clone()))));
            }
        }
    }
    Ok(())
}

fn range(position: &Position) -> OffsetRange {
    let Position { topic, partition, offset } = position.clone();
    OffsetRange { topic, partition, start: offset, end: offset + 1 }
}
