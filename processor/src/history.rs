//! An order's history: what each event changed when it was applied. Pure: no I/O.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use riverlock_ledger::{Decision, Projection as _};
use riverlock_schemas::{
    Mode, OrderId,
    events::order_state::{LineState, OrderState},
    time::rfc3339,
};
use serde::Serialize;

use crate::{
    Orders,
    domain::{Facts, LineFacts, OrderKey, Snapshot, Status, effects},
};

/// The changes that one event made to its order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryStep {
    /// The order.
    pub order_id: OrderId,
    /// Its mode.
    pub mode: Mode,
    /// Its status before the event; `None` if this is its first event.
    pub status_before: Option<Status>,
    /// Its status after the event.
    pub status_after: Status,
    /// Human-readable descriptions of the new facts; empty when the event added none.
    pub changes: Vec<String>,
    /// The messages that the event caused.
    pub effects: Vec<CausedEffect>,
}

/// A message to other systems, identified by its type and effect key within its order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CausedEffect {
    /// Its type, for example `fulfillment.requested`.
    pub kind: &'static str,
    /// Distinguishes several messages of one kind; usually empty.
    pub effect_key: String,
}

/// Applies events one by one in the given order and reports what each changed.
#[derive(Debug, Default)]
pub struct History {
    orders: BTreeMap<OrderKey, Facts>,
}

impl History {
    /// Applies an event's body. `received_at` is the broker's timestamp, if known; `conflict` says that an earlier body of the
    /// same event contradicts this one.
    ///
    /// Returns `None` when the event is not about an order or cannot be applied.
    pub fn apply(&mut self, body: &[u8], received_at: Option<DateTime<Utc>>, conflict: bool) -> Option<HistoryStep> {
        let reading = Orders::new(vec![Mode::Test, Mode::Live]).read(body, received_at).ok()?;
        let Decision::Apply(event) = reading.decision else {
            return None;
        };
        let (key, news) = Facts::of(event, conflict);
        let before = self.orders.get(&key);
        let mut after = before.cloned().unwrap_or_default();
        after.join(news);
        let nothing = Facts::default();
        let step = HistoryStep {
            order_id: key.order_id.clone(),
            mode: key.mode,
            status_before: before.map(Facts::status),
            status_after: after.status(),
            changes: changes(before.unwrap_or(&nothing), &after),
            effects: effects::new_messages(&key, before.unwrap_or(&nothing), &after)
                .iter()
                .map(|message| CausedEffect { kind: message.kind(), effect_key: message.effect_key() })
                .collect(),
        };
        self.orders.insert(key, after);
        Some(step)
    }
}

/// Describes the facts that `after` has and `before` does not.
fn changes(before: &Facts, after: &Facts) -> Vec<String> {
    let mut changes = Vec::new();
    for event_type in after.seen.difference(&before.seen) {
        changes.push(format!("{event_type} received"));
    }
    reached(&before.transitions, &after.transitions, OrderState::as_str, "", &mut changes);
    for state in after.unknown_states.difference(&before.unknown_states) {
        changes.push(format!("unknown state: {state}"));
    }
    if after.conflicted && !before.conflicted {
        changes.push("conflict: two bodies with the same event id contradict each other".to_owned());
    }
    for (line_id, line) in &after.lines {
        line_changes(before.lines.get(line_id), line, &format!("line {line_id}: "), &mut changes);
    }
    for (id, shipment) in &after.shipments {
        if before.shipments.get(id) != Some(shipment) {
            changes.push(format!("fulfillment {id} reported"));
        }
    }
    for (key, operation) in &after.operations {
        if before.operations.get(key) != Some(operation) {
            changes.push(format!("{} {} of charge {}", key.kind.as_str(), key.operation_id, key.charge_id));
        }
    }
    if before.snapshot != after.snapshot {
        let fields = fields(&before.snapshot.content, &after.snapshot.content);
        changes.push(newest(&before.snapshot, &after.snapshot, &fields));
    }
    if changes.is_empty() && before != after {
        changes.push("other facts changed".to_owned());
    }
    changes
}

fn line_changes(before: Option<&LineFacts>, after: &LineFacts, line: &str, changes: &mut Vec<String>) {
    let nothing = LineFacts::default();
    let known = before.unwrap_or(&nothing);
    reached(&known.transitions, &after.transitions, LineState::as_str, line, changes);
    let (old, new) = (&known.snapshot.content, &after.snapshot.content);
    if before.is_none() {
        let (sku, quantity) = (new.sku_id.as_deref().unwrap_or("no sku"), new.quantity.unwrap_or_default());
        changes.push(format!("{line}{quantity} x {sku}"));
    } else if old != new {
        changes.push(format!("{line}details changed"));
    }
}

/// Describes states that are newly reached, or reached earlier than previously known.
fn reached<S: Ord + Copy>(
    before: &BTreeMap<S, DateTime<Utc>>,
    after: &BTreeMap<S, DateTime<Utc>>,
    name: fn(S) -> &'static str,
    of: &str,
    changes: &mut Vec<String>,
) {
    for (&state, time) in after {
        let (known, state) = (before.get(&state), name(state));
        match known {
            Some(known) if known == time => {}
            Some(known) => {
                changes.push(format!("{of}{state} at {}, earlier than known ({})", rfc3339(*time), rfc3339(*known)));
            }
            None => changes.push(format!("{of}{state} at {}", rfc3339(*time))),
        }
    }
}

fn newest<T>(before: &Snapshot<T>, after: &Snapshot<T>, fields: &[String]) -> String {
    let first = before.stamp.event_id.is_empty();
    match (fields.is_empty(), first) {
        (true, _) => format!("event {} is the newest snapshot; no field differs", after.stamp.event_id),
        (false, true) => format!("first snapshot, with {}", fields.join(", ")),
        (false, false) => {
            format!("event {} is the newest snapshot; it differs in {}", after.stamp.event_id, fields.join(", "))
        }
    }
}

/// The names of the fields that differ. Their values are left out because they may be personal data.
fn fields<T: Serialize>(before: &T, after: &T) -> Vec<String> {
    let (Ok(serde_json::Value::Object(before)), Ok(serde_json::Value::Object(after))) =
        (serde_json::to_value(before), serde_json::to_value(after))
    else {
        return Vec::new();
    };
    after.into_iter().filter(|(name, value)| before.get(name) != Some(value)).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(id: &str, event_type: &str, updated: &str, rest: &str) -> Vec<u8> {
        format!(
            r#"{{"id":"{id}","type":"{event_type}","liveMode":false,"createdTime":"2026-01-01T00:00:00Z",
                 "data":{{"object":{{"id":"o","updatedTime":"{updated}"{rest}}}}}}}"#
        )
        .into_bytes()
    }

    fn kinds(step: &HistoryStep) -> Vec<&'static str> {
        step.effects.iter().map(|effect| effect.kind).collect()
    }

    #[test]
    fn each_step_lists_the_changes_and_effects_of_its_event() {
        let mut history = History::default();
        let accepted = body(
            "e1",
            "order.accepted",
            "2026-01-01T00:01:00Z",
            r#","currency":"EUR","items":[{"id":"l","skuId":"sku","quantity":2}]"#,
        );
        let step = history.apply(&accepted, None, false).unwrap();
        assert_eq!((step.status_before, step.status_after), (None, Status::Ready));
        assert_eq!(kinds(&step), ["fulfillment.requested"]);
        for change in [
            "order.accepted received",
            "accepted at 2026-01-01T00:01:00.000Z",
            "line l: 2 x sku",
            "first snapshot, with currency",
        ] {
            assert!(step.changes.iter().any(|found| found == change), "{change}: {:?}", step.changes);
        }

        let again = history.apply(&accepted, None, false).unwrap();
        assert_eq!((again.changes.len(), again.effects.len()), (0, 0), "{again:?}");

        let older = body(
            "e0",
            "order.created",
            "2026-01-01T00:00:30Z",
            r#","stateTransitions":{"accepted":"2026-01-01T00:00:10Z"}"#,
        );
        let step = history.apply(&older, None, false).unwrap();
        assert_eq!(step.status_after, Status::Ready);
        assert!(step.changes.iter().any(|change| change.contains("earlier than known")), "{:?}", step.changes);
        assert!(!step.changes.iter().any(|change| change.contains("snapshot")), "{:?}", step.changes);

        let cancelled = body("e2", "order.cancelled", "2026-01-01T00:02:00Z", r#","currency":"USD","items":[]"#);
        let step = history.apply(&cancelled, None, true).unwrap();
        assert_eq!((step.status_before, step.status_after), (Some(Status::Ready), Status::Cancelled));
        assert_eq!(kinds(&step), ["fulfillment.halted"]);
        assert!(step.changes.iter().any(|change| change.contains("differs in currency")), "{:?}", step.changes);
        assert!(step.changes.iter().any(|change| change.contains("two bodies")), "{:?}", step.changes);
    }

    #[test]
    fn bodies_that_are_not_about_an_order_change_nothing() {
        let mut history = History::default();
        assert_eq!(history.apply(b"{}", None, false), None);
        assert_eq!(history.apply(br#"{"id":"e","type":"payout.created"}"#, None, false), None);
        assert_eq!(history.apply(br#"{"id":"e","type":"order.accepted","data":{"object":{}}}"#, None, false), None);
    }
}
