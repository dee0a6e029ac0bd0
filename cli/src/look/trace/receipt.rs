//! Records as Kafka has them now, and whether they are intact.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use rdkafka::{
    Message as _,
    message::{BorrowedMessage, Headers as _},
};
use riverlock_ledger::reading::ranges::{OffsetRange, RangeError, RangeReader, limits};
use riverlock_runtime::{ConsumerGuard, kafka::KafkaConfig, with_causes};
use riverlock_schemas::{
    hash::Sha256Hash,
    kafka::{
        record::{self as header, Position},
        topics::is_of_earlier_cluster,
    },
    time::parse_time,
};
use serde::Serialize;

use crate::repair::quarantine::verdict::{Authenticator, StoredDelivery, Verdict};

/// The client's name in Kafka's logs.
const GROUP: &str = "trace";

/// The result of reading a position.
#[derive(Debug)]
pub(super) enum RecordLookup {
    Found(RecordCopy),
    /// Kafka does not have the record, for this reason.
    Gone(String),
    /// Kafka could not be read, for this reason.
    Unreadable(String),
}

/// A record, copied from Kafka's buffers.
#[derive(Debug, Default)]
pub(super) struct RecordCopy {
    headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl RecordCopy {
    fn new(message: &BorrowedMessage<'_>) -> Self {
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

/// How a record was received, and whether it is intact.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Receipt {
    /// `read`, `gone` or `unreadable`.
    pub(super) state: &'static str,
    /// Why the record could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// When ingest received the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) received_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) endpoint: Option<String>,
    /// `webhook`, `quarantine` or another way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) origin: Option<String>,
    /// The secret that matched at receipt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) body_bytes: Option<usize>,
    /// SHA-256 of the body that Kafka has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) body_sha256: Option<Sha256Hash>,
    /// Whether that is the recorded SHA-256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) as_audited: Option<bool>,
    /// `verified`, `wrong` or `unverifiable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) signature: Option<&'static str>,
    /// The result as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) verdict: Option<String>,
}

impl Receipt {
    pub(super) fn new(lookup: &RecordLookup, recorded_sha256: &str, authenticator: &Authenticator<'_>) -> Self {
        match lookup {
            RecordLookup::Gone(reason) => Self { state: "gone", reason: Some(reason.clone()), ..Self::default() },
            RecordLookup::Unreadable(reason) => {
                Self { state: "unreadable", reason: Some(reason.clone()), ..Self::default() }
            }
            RecordLookup::Found(record) => {
                let sha256 = Sha256Hash::of(&record.body);
                let (signature, verdict) = verify(record, authenticator);
                let value = |name| Some(record.header(name).to_owned()).filter(|text| !text.is_empty());
                Self {
                    state: "read",
                    reason: None,
                    received_at: value(header::RECEIVED_AT),
                    endpoint: value(header::ENDPOINT),
                    origin: value(header::ORIGIN),
                    secret_id: value(header::SECRET_ID),
                    traceparent: value(header::TRACEPARENT),
                    body_bytes: Some(record.body.len()),
                    body_sha256: Some(sha256),
                    as_audited: Some(sha256.to_string() == recorded_sha256),
                    signature: Some(signature),
                    verdict: Some(verdict),
                }
            }
        }
    }

    /// Whether no check of the record failed.
    pub(super) fn is_intact(&self) -> bool {
        self.as_audited != Some(false) && !self.is_signature_invalid()
    }

    /// Whether the signature could be verified and is invalid.
    pub(super) fn is_signature_invalid(&self) -> bool {
        self.signature == Some(WRONG)
    }
}

const VERIFIED: &str = "verified";
const WRONG: &str = "wrong";
const UNVERIFIABLE: &str = "unverifiable";

/// Verifies a record's signature with the configured secrets that were valid when it was received.
fn verify(record: &RecordCopy, authenticator: &Authenticator<'_>) -> (&'static str, String) {
    let (endpoint, received_at) = (record.header(header::ENDPOINT), record.header(header::RECEIVED_AT));
    let secret_id = record.header(header::SECRET_ID);
    if record.header(header::ORIGIN) == header::ORIGIN_RECONCILE {
        return (UNVERIFIABLE, "not signed: it was fetched from Digital River's Events API".to_owned());
    }
    let delivery = StoredDelivery {
        endpoint,
        received_at,
        signature: record.header(header::SIGNATURE),
        basic: "",
        bearer: "",
        body: &record.body,
    };
    let Some(time) = parse_time(received_at) else {
        return (UNVERIFIABLE, Verdict::NoTime.to_string());
    };
    let verdict = if record.header(header::AGE_IGNORED) == header::TRUE {
        authenticator.verify_signature_of_any_age(&delivery, time)
    } else {
        authenticator.verify_signature(&delivery, time)
    };
    match verdict {
        Verdict::Verifies { .. } => (VERIFIED, verdict.to_string()),
        Verdict::Invalid(_) if !secret_id.is_empty() && !authenticator.has_secret(endpoint, secret_id) => (
            UNVERIFIABLE,
            format!("cannot be verified: secret {secret_id} is not configured any more or cannot be read"),
        ),
        Verdict::Invalid(_) => (WRONG, verdict.to_string()),
        Verdict::SignatureOnly { .. }
        | Verdict::OtherTime { .. }
        | Verdict::NoSignatures
        | Verdict::NoEndpoint
        | Verdict::NoTime => (UNVERIFIABLE, verdict.to_string()),
    }
}

/// Reads these records. Blocks. If Kafka does not answer, only the first record waits for it, and all get the same reason.
pub(super) fn read(
    kafka: &KafkaConfig,
    wanted: &BTreeSet<Position>,
) -> anyhow::Result<BTreeMap<Position, RecordLookup>> {
    let mut found = BTreeMap::new();
    let mut there = Vec::new();
    let consumer = ConsumerGuard::create(&kafka.client()).context("creating the Kafka client")?;
    let mut ends = BTreeMap::new();
    let mut unreachable: Option<String> = None;
    for position in wanted {
        if is_of_earlier_cluster(&position.topic) {
            found.insert(position.clone(), RecordLookup::Gone("it was in an earlier Kafka cluster".to_owned()));
            continue;
        }
        if let Some(reason) = &unreachable {
            found.insert(position.clone(), RecordLookup::Unreadable(reason.clone()));
            continue;
        }
        let ask = || limits(&consumer, &position.topic, position.partition);
        match ends.entry((position.topic.as_str(), position.partition)).or_insert_with(ask) {
            Ok((low, high)) if (*low..*high).contains(&position.offset) => there.push(position.clone()),
            Ok((low, high)) => {
                let reason = format!("{} has offsets {low}..{high}", position.topic);
                found.insert(position.clone(), RecordLookup::Gone(reason));
            }
            Err(error @ RangeError::Unavailable { .. }) => {
                found.insert(position.clone(), RecordLookup::Unreadable(error.to_string()));
            }
            Err(error) => {
                let reason = format!("Kafka is unavailable: {error}");
                found.insert(position.clone(), RecordLookup::Unreadable(reason.clone()));
                unreachable = Some(reason);
            }
        }
    }
    drop(consumer);
    read_present(kafka, there, &mut found)?;
    Ok(found)
}

/// Reads records whose offsets Kafka has.
fn read_present(
    kafka: &KafkaConfig,
    mut wanted: Vec<Position>,
    found: &mut BTreeMap<Position, RecordLookup>,
) -> anyhow::Result<()> {
    while !wanted.is_empty() {
        let mut reader = RangeReader::open(kafka, GROUP, wanted.iter().map(range))?;
        let ended = loop {
            match reader.read() {
                Ok(Some(message)) => {
                    let (topic, partition, offset) =
                        (message.topic().to_owned(), message.partition(), message.offset());
                    found.insert(Position { topic, partition, offset }, RecordLookup::Found(RecordCopy::new(&message)));
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        wanted.retain(|position| !found.contains_key(position));
        match ended {
            // The remaining positions are gaps: Kafka has the offsets around them.
            None => {
                let gone = |position| (position, RecordLookup::Gone("no record there".to_owned()));
                found.extend(wanted.drain(..).map(gone));
            }
            Some(RangeError::Gone { range, reason }) => {
                let position = Position { topic: range.topic, partition: range.partition, offset: range.start };
                wanted.retain(|other| *other != position);
                found.insert(position, RecordLookup::Gone(reason));
            }
            Some(error) => {
                let reason = with_causes(&error);
                found.extend(wanted.drain(..).map(|position| (position, RecordLookup::Unreadable(reason.clone()))));
            }
        }
    }
    Ok(())
}

fn range(position: &Position) -> OffsetRange {
    let Position { topic, partition, offset } = position.clone();
    OffsetRange { topic, partition, start: offset, end: offset + 1 }
}
