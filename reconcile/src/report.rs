//! Result of a comparison, in bounded memory.

use std::collections::BTreeMap;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use riverlock_schemas::Mode;
use serde::Serialize;
use uuid::Uuid;

/// Most orders and most events that are listed individually.
pub const NAMED_MAX: usize = 1_000;

/// Most types and hours that are counted individually.
const GROUPS_MAX: usize = 2_000;

/// Result of a comparison.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Mode of the compared data.
    pub mode: Mode,
    /// The compared event types.
    pub types: Vec<String>,
    /// Start of the compared range.
    pub from: DateTime<Utc>,
    /// End of the compared range, exclusive.
    pub to: DateTime<Utc>,
    /// Whether missing events were written.
    pub applied: bool,
    /// The interrupted run that this one resumed.
    pub resumed: Option<Uuid>,
    /// Events listed by Digital River; those in overlaps count once for each listing.
    pub listed: u64,
    /// Listed elements that are not events or have the other mode. They are never written.
    pub unusable: u64,
    /// Events that have no outcome and were not written before.
    pub missing: u64,
    /// Events that were written to the raw topics.
    pub written: u64,
    /// Missing events by type.
    pub by_type: BTreeMap<String, u64>,
    /// Missing events by the hour of their creation.
    pub by_hour: BTreeMap<DateTime<Utc>, u64>,
    /// Missing events by order, for the first [`NAMED_MAX`] orders.
    pub by_order: BTreeMap<String, u64>,
    /// The first [`NAMED_MAX`] missing events, newest first.
    pub events: Vec<MissingEvent>,
}

/// An event that was never delivered.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MissingEvent {
    /// Event id.
    pub id: String,
    /// Event type.
    pub event_type: String,
    /// When Digital River created it.
    pub created_time: Option<DateTime<Utc>>,
    /// Order id.
    pub order_id: Option<String>,
}

impl Report {
    pub(crate) fn new(mode: Mode, types: Vec<String>, from: DateTime<Utc>, to: DateTime<Utc>, applied: bool) -> Self {
        Self {
            mode,
            types,
            from,
            to,
            applied,
            resumed: None,
            listed: 0,
            unusable: 0,
            missing: 0,
            written: 0,
            by_type: BTreeMap::new(),
            by_hour: BTreeMap::new(),
            by_order: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// Counts a missing event.
    pub(crate) fn add(&mut self, event: MissingEvent) {
        self.missing += 1;
        count(&mut self.by_type, event.event_type.clone(), GROUPS_MAX);
        if let Some(hour) = event.created_time.and_then(|time| time.duration_trunc(TimeDelta::hours(1)).ok()) {
            count(&mut self.by_hour, hour, GROUPS_MAX);
        }
        if let Some(order_id) = &event.order_id {
            count(&mut self.by_order, order_id.clone(), NAMED_MAX);
        }
        if self.events.len() < NAMED_MAX {
            self.events.push(event);
        }
    }
}

/// Increments a group's count; groups beyond the limit are not created.
fn count<K: Ord>(groups: &mut BTreeMap<K, u64>, key: K, groups_max: usize) {
    if groups.len() < groups_max || groups.contains_key(&key) {
        *groups.entry(key).or_default() += 1;
    }
}
