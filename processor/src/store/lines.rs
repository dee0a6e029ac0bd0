//! JSON format of an order's lines in its row: an object by line id.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use riverlock_schemas::{
    LineId,
    events::{order_event::LineDetails, order_state::LineState},
};
use serde::{Deserialize, Serialize, Serializer};

use crate::domain::{Facts, LineFacts, Snapshot, Stamp};

type Time = Option<DateTime<Utc>>;

/// Serializes the lines of an order.
pub(super) struct Lines<'a>(pub(super) &'a Facts);

/// A line. Unknown fields are left out. Names follow `details`; a migration has written them too.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line<S> {
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    fulfilled_at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    paid_at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelled_at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked_at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    returned_at: Time,
    /// Left out if it equals the order's stamp, which is the usual case.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<LineStamp<S>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<S>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sku_id: Option<S>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quantity: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    physical: Option<bool>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LineStamp<S> {
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Time,
    event_id: S,
}

impl Serialize for Lines<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Facts { lines, snapshot, .. } = self.0;
        serializer.collect_map(lines.iter().map(|(line_id, line)| (line_id, Line::of(line, &snapshot.stamp))))
    }
}

/// Parses the lines of an order with this stamp.
pub(super) fn parse(json: &str, of_order: &Stamp) -> Result<BTreeMap<LineId, LineFacts>, String> {
    let lines: BTreeMap<String, Line<String>> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let line = |(line_id, line): (String, Line<String>)| {
        let line_id = LineId::parse(line_id).map_err(|error| format!("a line's id {error}"))?;
        Ok((line_id, line.into_facts(of_order)))
    };
    lines.into_iter().map(line).collect()
}

impl<'a> Line<&'a str> {
    fn of(line: &'a LineFacts, of_order: &Stamp) -> Self {
        let reached = |state| line.transitions.get(&state).copied();
        let Snapshot { stamp, content } = &line.snapshot;
        Self {
            created_at: reached(LineState::Created),
            fulfilled_at: reached(LineState::Fulfilled),
            paid_at: reached(LineState::Paid),
            cancelled_at: reached(LineState::Cancelled),
            blocked_at: reached(LineState::Blocked),
            returned_at: reached(LineState::Returned),
            snapshot: (stamp != of_order).then_some(LineStamp {
                updated_at: stamp.updated_at,
                created_at: stamp.created_at,
                event_id: stamp.event_id.as_str(),
            }),
            state: content.state.as_deref(),
            sku_id: content.sku_id.as_deref(),
            quantity: content.quantity,
            physical: content.physical,
        }
    }
}

impl Line<String> {
    fn into_facts(self, of_order: &Stamp) -> LineFacts {
        let transitions = [
            (LineState::Created, self.created_at),
            (LineState::Fulfilled, self.fulfilled_at),
            (LineState::Paid, self.paid_at),
            (LineState::Cancelled, self.cancelled_at),
            (LineState::Blocked, self.blocked_at),
            (LineState::Returned, self.returned_at),
        ];
        let stamp = self.snapshot.map_or_else(
            || of_order.clone(),
            |LineStamp { updated_at, created_at, event_id }| Stamp { updated_at, created_at, event_id },
        );
        let content =
            LineDetails { state: self.state, sku_id: self.sku_id, quantity: self.quantity, physical: self.physical };
        LineFacts { transitions: crate::store::row::known(transitions), snapshot: Snapshot { stamp, content } }
    }
}

#[cfg(test)]
mod tests {
    use riverlock_schemas::time::parse_time;

    use super::*;

    fn stamp(updated: Option<&str>, created: Option<&str>, event_id: &str) -> Stamp {
        Stamp {
            updated_at: updated.and_then(parse_time),
            created_at: created.and_then(parse_time),
            event_id: event_id.to_owned(),
        }
    }

    /// Unusual texts, times of every precision, and stamps that differ from the order's in one field.
    fn facts() -> Facts {
        let of_order = stamp(Some("2026-01-01T00:00:00Z"), Some("2026-01-01T00:00:00.5Z"), "e");
        let stamps = [
            of_order.clone(),
            stamp(None, Some("2026-01-01T00:00:00.5Z"), "e"),
            stamp(Some("2026-01-01T00:00:00Z"), None, "e"),
            stamp(None, None, ""),
        ];
        let times = [
            "0001-01-01T00:00:00Z",
            "1969-12-31T23:59:59.000001Z",
            "2026-01-01T00:00:00.12Z",
            "2026-01-01T00:00:00.000100Z",
            "2026-12-31T23:59:60Z",
            "9999-12-31T23:59:59.999999999Z",
        ];
        let texts = ["l", "\"\\/{}", "\u{fffd}\u{ffff}\u{1f600}", "\u{2028} \u{202e}", "snapshot"];
        let mut facts = Facts::default();
        for (index, text) in texts.iter().enumerate() {
            let content = LineDetails {
                state: Some((*text).to_owned()),
                sku_id: (index % 2 == 0).then(|| (*text).to_owned()),
                quantity: Some(1_000_000_000),
                physical: Some(index % 2 == 0),
            };
            let times = times.iter().cycle().skip(index).map(|time| parse_time(time).unwrap());
            let transitions = LineState::ALL.into_iter().zip(times).collect();
            let snapshot = Snapshot { stamp: stamps[index % stamps.len()].clone(), content };
            facts.lines.insert(LineId::parse(*text).unwrap(), LineFacts { transitions, snapshot });
        }
        facts.lines.insert(LineId::parse("nothing").unwrap(), LineFacts::default());
        facts.snapshot.stamp = of_order;
        facts
    }

    #[test]
    fn written_lines_are_parsed_unchanged() {
        let facts = facts();
        let json = serde_json::to_string(&Lines(&facts)).unwrap();
        assert_eq!(parse(&json, &facts.snapshot.stamp).unwrap(), facts.lines);
    }

    #[test]
    fn unknown_fields_are_not_written() {
        let mut facts = Facts { snapshot: facts().snapshot, ..Facts::default() };
        let mut line = LineFacts {
            snapshot: Snapshot { stamp: facts.snapshot.stamp.clone(), ..Snapshot::default() },
            ..LineFacts::default()
        };
        line.transitions.insert(LineState::Created, parse_time("2026-01-01T00:00:00.1Z").unwrap());
        line.snapshot.content.quantity = Some(2);
        facts.lines.insert(LineId::parse("l").unwrap(), line);
        let json = serde_json::to_string(&Lines(&facts)).unwrap();
        assert_eq!(json, r#"{"l":{"createdAt":"2026-01-01T00:00:00.100Z","quantity":2}}"#);

        facts.snapshot.stamp.event_id = "f".to_owned();
        let json = serde_json::to_string(&Lines(&facts)).unwrap();
        assert!(json.contains(r#""snapshot":{"updatedAt":"2026-01-01T00:00:00Z","createdAt":"2026-01-01T00:00:00.500Z","eventId":"e"}"#), "{json}");
    }
}
