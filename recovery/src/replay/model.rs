//! Data types of a replay.

use chrono::{DateTime, Utc};
use riverlock_ledger::{Record, batch, reading::ranges::OffsetRange};
use riverlock_schemas::{
    Mode,
    kafka::record::{EVENT_TYPE, bounded},
};
use serde::{Deserialize, Serialize};

/// The outcome that a replay stored for a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordedOutcome {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) event_id: String,
    pub(crate) order_id: Option<String>,
    pub(crate) outcome: String,
    pub(crate) reason: Option<String>,
    pub(crate) body_sha256: Vec<u8>,
}

/// A range's key: topic number, partition, first offset.
pub(crate) type RangeKey = (i16, i32, i64);

/// Limits of a chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

/// A message that a replay writes to the outbox.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Effect {
    /// Order id.
    pub order_id: String,
    /// Mode of the order.
    #[serde(rename = "mode", serialize_with = "mode")]
    pub live_mode: bool,
    /// Kind of effect, for example `fulfillment.requested`.
    pub kind: String,
    /// Distinguishes effects of the same order and kind.
    pub effect_key: String,
}

pub(crate) fn mode<S: serde::Serializer>(live_mode: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Mode::from_live(*live_mode))
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}  order {} ({})", self.kind, self.order_id, Mode::from_live(self.live_mode))?;
        if self.effect_key.is_empty() { Ok(()) } else { write!(f, "  {}", self.effect_key) }
    }
}

/// An order that would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderChange {
    /// Order id.
    pub order_id: String,
    /// Mode of the order.
    #[serde(rename = "mode", serialize_with = "mode")]
    pub live_mode: bool,
    /// Status before; `None` if the order does not exist yet.
    pub before: Option<String>,
    /// Status afterwards.
    pub after: String,
}

impl std::fmt::Display for OrderChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let before = self.before.as_deref().unwrap_or("new");
        write!(f, "order {} ({}): {before} -> {}", self.order_id, Mode::from_live(self.live_mode), self.after)
    }
}

/// Topic number, partition, offset.
pub(crate) type Position = (i16, i32, i64);

/// Selects the records to replay. All criteria must match; an empty criterion matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selection {
    /// Topics, by name.
    pub topics: Vec<String>,
    /// Events of these types.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// Partition numbers.
    pub partitions: Vec<i32>,
    /// Offsets `[start, end)` of every selected partition.
    pub offsets: Option<(i64, i64)>,
    /// Records that Kafka stored at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Records that Kafka stored before this time.
    pub until: Option<DateTime<Utc>>,
    /// Records of these orders.
    pub orders: Vec<String>,
    /// Records of these events.
    pub events: Vec<String>,
}

impl Selection {
    /// Whether a record within the ranges is selected.
    pub(crate) fn has(&self, record: &Record) -> bool {
        let in_time = self.from.is_none_or(|from| record.timestamp >= from)
            && self.until.is_none_or(|until| record.timestamp < until);
        if !in_time || !self.has_type(record) {
            return false;
        }
        if self.orders.is_empty() && self.events.is_empty() {
            return true;
        }
        let Some(envelope) = batch::envelope(record) else { return false };
        let order = || envelope.order_id.as_deref().is_some_and(|id| self.orders.iter().any(|order| order == id));
        let event = || {
            let key = batch::stored_event_id(&envelope);
            self.events.iter().any(|id| *id == key || *id == envelope.id)
        };
        (self.orders.is_empty() || order()) && (self.events.is_empty() || event())
    }

    /// Whether the record's event has one of the selected types. The header says so without parsing the body; the body
    /// does if there is no header.
    fn has_type(&self, record: &Record) -> bool {
        if self.types.is_empty() {
            return true;
        }
        let is_selected = |found: &[u8]| self.types.iter().any(|name| bounded(name).as_bytes() == found);
        match record.header(EVENT_TYPE) {
            Some(found) => is_selected(found),
            None => {
                batch::envelope(record).is_some_and(|envelope| is_selected(bounded(&envelope.event_type).as_bytes()))
            }
        }
    }
}

impl std::fmt::Display for Selection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        let mut list = |what: &str, items: &[String]| {
            if !items.is_empty() {
                parts.push(format!("{what} {}", items.join(", ")));
            }
        };
        list("topic", &self.topics);
        list("type", &self.types);
        list("partition", &self.partitions.iter().map(ToString::to_string).collect::<Vec<_>>());
        list("order", &self.orders);
        list("event", &self.events);
        if let Some((start, end)) = self.offsets {
            parts.push(format!("offsets {start}..{end}"));
        }
        if let Some(from) = self.from {
            parts.push(format!("from {from}"));
        }
        if let Some(until) = self.until {
            parts.push(format!("until {until}"));
        }
        f.write_str(&if parts.is_empty() { "everything".to_owned() } else { parts.join("; ") })
    }
}

/// A range, with the topic's number in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AssignedRange {
    pub(crate) topic_id: i16,
    pub(crate) range: OffsetRange,
}
