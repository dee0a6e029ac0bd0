//! End-to-end latency: how long it takes until an event is applied, its messages are published, and its document is stored.
//!
//! Only the services record it. A replay or a rebuild reads events that are old on purpose.

use chrono::{DateTime, Utc};
use metrics::{Unit, describe_histogram, histogram};
use riverlock_runtime::{Clock as _, SystemClock};

use crate::store::{EventRow, Outcome};

/// Time from an event's origin to one of its effects, by effect and origin. Its buckets reach from 1 ms to a week; they are set
/// where the recorder is installed.
pub const LATENCY: &str = "riverlock_event_latency_seconds";

/// Label values of [`LATENCY`]: the effect, and the time from which it is measured.
pub const KINDS: [(&str, &str); 5] = [
    ("applied", "created"),
    ("applied", "received"),
    ("published", "written"),
    ("invoice_stored", "created"),
    ("invoice_stored", "queued"),
];

/// The text before the time in a message's payload. A quotation mark inside a value is escaped there, so the first occurrence
/// is the attribute.
const TIME_KEY: &[u8] = b"\"time\":\"";

/// Most characters of a time in a message's payload.
const TIME_BYTES_MAX: usize = 40;

/// The times of a batch's applied events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times(Vec<(Option<DateTime<Utc>>, DateTime<Utc>)>);

impl Times {
    /// Adds a record's times if it was applied.
    pub(crate) fn add(&mut self, row: &EventRow<'_>) {
        if row.outcome == Outcome::Applied {
            self.0.push((row.created_at, row.received_at));
        }
    }
}

/// Describes the histogram and creates it without values.
pub(crate) fn describe() {
    describe_histogram!(
        LATENCY,
        Unit::Seconds,
        "Time until an event is applied or its document is stored, or a message published: since Digital River created the event, since Kafka received it, since the document was queued, or since the message was written"
    );
    for (stage, since) in KINDS {
        drop(histogram!(LATENCY, "stage" => stage, "since" => since));
    }
}

/// Records that a batch's events were applied at `now`.
pub(crate) fn applied(times: &Times, now: DateTime<Utc>) {
    let created = histogram!(LATENCY, "stage" => "applied", "since" => "created");
    let received = histogram!(LATENCY, "stage" => "applied", "since" => "received");
    for (created_at, received_at) in &times.0 {
        if let Some(created_at) = created_at {
            created.record(seconds(*created_at, now));
        }
        received.record(seconds(*received_at, now));
    }
}

/// Records that messages were published.
pub(crate) fn published<'a>(payloads: impl Iterator<Item = &'a [u8]>) {
    let now = SystemClock.now();
    for written_at in payloads.filter_map(written_at) {
        histogram!(LATENCY, "stage" => "published", "since" => "written").record(seconds(written_at, now));
    }
}

/// Records that a document was stored: `created_at` is the time of its event, `queued_at` when it was queued.
pub fn invoice_stored(created_at: Option<DateTime<Utc>>, queued_at: DateTime<Utc>) {
    let now = SystemClock.now();
    if let Some(created_at) = created_at {
        histogram!(LATENCY, "stage" => "invoice_stored", "since" => "created").record(seconds(created_at, now));
    }
    histogram!(LATENCY, "stage" => "invoice_stored", "since" => "queued").record(seconds(queued_at, now));
}

/// The time at which a message was written, from its payload.
fn written_at(payload: &[u8]) -> Option<DateTime<Utc>> {
    let at = payload.windows(TIME_KEY.len()).position(|text| text == TIME_KEY)? + TIME_KEY.len();
    let text = payload[at..].iter().take(TIME_BYTES_MAX).take_while(|byte| **byte != b'"').copied().collect();
    String::from_utf8(text).ok()?.parse().ok()
}

/// The seconds between two times; 0 if the clocks of two hosts disagree.
fn seconds(from: DateTime<Utc>, to: DateTime<Utc>) -> f64 {
    to.signed_duration_since(from).to_std().unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_message_is_read_from_its_payload() {
        let payload = br#"{"specversion":"1.0","subject":"a\"time\":\"2020-01-01T00:00:00Z","type":"invoice.stored","time":"2026-01-31T08:00:00.250Z","data":{}}"#;
        assert_eq!(written_at(payload).unwrap().to_rfc3339(), "2026-01-31T08:00:00.250+00:00");
        assert_eq!(written_at(b"{}"), None);
        assert_eq!(written_at(br#"{"time":"yesterday"}"#), None);
    }

    #[test]
    fn a_clock_that_is_behind_gives_no_negative_latency() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let (first, second) = (at("2026-01-31T08:00:00Z"), at("2026-01-31T08:00:01.5Z"));
        assert_eq!((seconds(first, second), seconds(second, first)), (1.5, 0.0));
    }

    #[test]
    fn the_buckets_are_those_of_the_recorder() {
        assert_eq!(LATENCY, riverlock_runtime::telemetry::EVENT_LATENCY);
    }
}
