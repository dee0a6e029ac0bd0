//! Events whose object is a charge: `order.charge.failed`, `order.charge.capture.failed` and their kin.
//!
//! A charge is moved by *operations*: it is authorized (the charge itself), captured, cancelled, refunded. What matters to
//! fulfillment is how each of them ended, so that is what is read; the rest stays in the raw record.

use std::fmt;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    event_type::CHARGE_PREFIX,
    ids::key_text,
    payload::{self, Money, Text, Time},
};

/// What is done with money.
///
/// Source: Digital River's charge: the charge itself, `captures[]`, `cancels[]`, `refunds[]`, and the event
/// `order.charge.reauth.failed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OperationKind {
    /// The authorization.
    Charge,
    /// The authorization again, during fulfillment, because the first one had run out.
    Reauthorization,
    /// The money is taken, all or part of it.
    Capture,
    /// An authorization is given back, all or part of it.
    Cancel,
    /// Captured money is given back, all or part of it.
    Refund,
}

impl OperationKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Charge, Self::Reauthorization, Self::Capture, Self::Cancel, Self::Refund];

    /// As in the database, messages and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Charge => "charge",
            Self::Reauthorization => "reauthorization",
            Self::Capture => "capture",
            Self::Cancel => "cancel",
            Self::Refund => "refund",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OperationState {
    /// Begun.
    Pending,
    /// Done; of a charge: authorized.
    Complete,
    /// Did not succeed; of a charge also: cancelled as a whole.
    Failed,
}

impl OperationState {
    /// The state of that name; `None` for a name that this version does not know.
    fn parse(name: &str) -> Option<Self> {
        match name {
            "created" | "pending" | "pending_information" | "processing" => Some(Self::Pending),
            "capturable" | "complete" | "completed" | "succeeded" => Some(Self::Complete),
            "cancelled" | "failed" => Some(Self::Failed),
            _ => None,
        }
    }
}

/// What an operation is found by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationKey {
    /// What is done.
    pub kind: OperationKind,
    /// Digital River's id of the charge; empty where the event does not say which charge it means.
    pub charge_id: String,
    /// Digital River's id of the capture, cancel or refund; empty for the charge itself, and where the event has none.
    pub operation_id: String,
}

/// What is known of an operation besides its state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperationDetails {
    /// How much, in `currency`.
    pub amount: Option<Decimal>,
    /// ISO 4217 code.
    pub currency: Option<String>,
    /// Why it failed, as Digital River names it. Not for customers.
    pub failure_code: Option<String>,
    /// The fulfillment that caused it.
    pub fulfillment_id: Option<String>,
}

/// An operation as one event shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Which operation.
    pub key: OperationKey,
    /// How far it is, and since when at the latest; `None` when the event names no state that this version knows.
    pub reached: Option<(OperationState, DateTime<Utc>)>,
    /// What else is known.
    pub details: OperationDetails,
}

/// Digital River's charge, as it is written.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WireCharge {
    id: Option<String>,
    /// The order; absent where the charge stands inside an order.
    #[expect(dead_code, reason = "the envelope reads it; it stands here for the JSON Schema")]
    order_id: Option<String>,
    created_time: Option<Time>,
    currency: Option<Text>,
    amount: Option<Money>,
    /// `pending`, `capturable`, `processing`, `complete`, `failed`, `cancelled` …
    state: Option<Text>,
    failure_code: Option<Text>,
    captures: Option<Vec<WireOperation>>,
    cancels: Option<Vec<WireOperation>>,
    refunds: Option<Vec<WireOperation>>,
}

/// A capture, cancel or refund, as it is written.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct WireOperation {
    id: Option<String>,
    created_time: Option<Time>,
    amount: Option<Money>,
    /// `pending`, `complete`, `failed` …
    state: Option<Text>,
    failure_code: Option<Text>,
    fulfillment_id: Option<Text>,
}

/// What the type of a charge event announces: `order.charge.capture.failed` that a capture failed.
fn announced(event_type: &str) -> Option<(OperationKind, OperationState)> {
    let name = event_type.strip_prefix(CHARGE_PREFIX)?;
    let Some((kind, state)) = name.split_once('.') else {
        return Some((OperationKind::Charge, OperationState::parse(name)?));
    };
    let kind = if kind == "reauth" { OperationKind::Reauthorization } else { OperationKind::parse(kind)? };
    Some((kind, OperationState::parse(state)?))
}

/// What the charges of one event say; there are several where the event carries an order.
pub(crate) fn operations(event_type: &str, charges: Vec<WireCharge>, as_of: DateTime<Utc>) -> Vec<Operation> {
    let announced = announced(event_type);
    let only = if let [charge] = &charges[..] { key_text(charge.id.as_deref()) } else { String::new() };
    let mut operations = Vec::new();
    for charge in charges {
        charge.read(announced, as_of, &mut operations);
    }
    // The event says that something happened; where no operation shows it, it is noted all the same.
    if let Some((kind, state)) = announced {
        let told = |operation: &Operation| {
            operation.key.kind == kind && operation.reached.is_some_and(|(reached, _)| reached == state)
        };
        if !operations.iter().any(told) {
            let key = OperationKey { kind, charge_id: only, operation_id: String::new() };
            operations.push(Operation { key, reached: Some((state, as_of)), details: OperationDetails::default() });
        }
    }
    operations
}

impl WireCharge {
    fn read(self, announced: Option<(OperationKind, OperationState)>, as_of: DateTime<Utc>, to: &mut Vec<Operation>) {
        let charge_id = key_text(self.id.as_deref());
        let currency = payload::text(self.currency);
        let state = payload::text(self.state).as_deref().and_then(OperationState::parse);
        let created = payload::time(self.created_time);
        to.push(Operation {
            key: OperationKey {
                kind: OperationKind::Charge,
                charge_id: charge_id.clone(),
                operation_id: String::new(),
            },
            reached: match state {
                // That a charge failed counts from the event that announces it, not from every event that mentions it:
                // the order may have been accepted with another charge meanwhile.
                Some(OperationState::Failed) if announced != Some((OperationKind::Charge, OperationState::Failed)) => {
                    None
                }
                Some(state) => Some((state, since(state, created, as_of))),
                None => None,
            },
            details: OperationDetails {
                amount: self.amount.map(|money| money.0),
                currency: currency.clone(),
                failure_code: payload::text(self.failure_code),
                fulfillment_id: None,
            },
        });
        let parts = [
            (OperationKind::Capture, self.captures),
            (OperationKind::Cancel, self.cancels),
            (OperationKind::Refund, self.refunds),
        ];
        for (kind, list) in parts {
            to.extend(
                list.into_iter()
                    .flatten()
                    .map(|operation| operation.read(kind, charge_id.clone(), currency.clone(), as_of)),
            );
        }
    }
}

impl WireOperation {
    fn read(self, kind: OperationKind, charge_id: String, currency: Option<String>, as_of: DateTime<Utc>) -> Operation {
        let created = payload::time(self.created_time);
        let state = payload::text(self.state).as_deref().and_then(OperationState::parse);
        Operation {
            key: OperationKey { kind, charge_id, operation_id: key_text(self.id.as_deref()) },
            reached: state.map(|state| (state, since(state, created, as_of))),
            details: OperationDetails {
                amount: self.amount.map(|money| money.0),
                currency,
                failure_code: payload::text(self.failure_code),
                fulfillment_id: payload::text(self.fulfillment_id),
            },
        }
    }
}

/// An operation is pending from its creation; when it ended is known only from the event.
fn since(state: OperationState, created: Option<DateTime<Utc>>, as_of: DateTime<Utc>) -> DateTime<Utc> {
    if state == OperationState::Pending { created.unwrap_or(as_of) } else { as_of }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Envelope, order_event::OrderEvent, payload::PayloadError};

    fn parse(event_type: &str, object: &str) -> Result<OrderEvent, PayloadError> {
        let body = format!(
            r#"{{"id":"e","type":"{event_type}","liveMode":false,"createdTime":"2026-01-01T00:00:00Z","data":{{"object":{object}}}}}"#
        );
        OrderEvent::parse(&Envelope::parse(body.as_bytes()).unwrap(), body.as_bytes())
    }

    fn states(event: &OrderEvent) -> Vec<(OperationKind, &str, &str, Option<OperationState>)> {
        let operations = event.operations.iter();
        operations
            .map(|operation| {
                let key = &operation.key;
                let state = operation.reached.map(|(state, _)| state);
                (key.kind, key.charge_id.as_str(), key.operation_id.as_str(), state)
            })
            .collect()
    }

    #[test]
    fn a_charge_tells_of_everything_that_was_done_with_it() {
        use OperationKind::{Cancel, Capture, Charge};
        use OperationState::{Complete, Failed, Pending};
        let event = parse(
            "order.charge.capture.failed",
            r#"{"id":"c","orderId":"o","amount":30.10,"currency":"EUR","state":"capturable",
               "captures":[{"id":"1","state":"complete"},
                           {"id":"2","state":"failed","amount":10.05,"failureCode":"no","fulfillmentId":"f"}],
               "cancels":[{"id":"3","state":"pending","createdTime":"2025-12-31T00:00:00Z"},{"id":"4","state":"new"}]}"#,
        )
        .unwrap();
        assert_eq!((event.order_id.as_str(), event.order.is_none()), ("o", true));
        let expected = [
            (Charge, "c", "", Some(Complete)),
            (Capture, "c", "1", Some(Complete)),
            (Capture, "c", "2", Some(Failed)),
            (Cancel, "c", "3", Some(Pending)),
            (Cancel, "c", "4", None),
        ];
        assert_eq!(states(&event), expected);
        let failed = &event.operations[2];
        assert_eq!(failed.details.amount.unwrap().to_string(), "10.05");
        assert_eq!(failed.details.fulfillment_id.as_deref(), Some("f"));
        assert_eq!(failed.reached.unwrap().1, event.as_of);
        assert!(event.operations[3].reached.unwrap().1 < event.as_of, "pending since it was made");
    }

    #[test]
    fn what_the_type_announces_is_noted_even_if_the_charge_does_not_show_it() {
        use OperationState::Failed;
        for (event_type, kind) in [
            ("order.charge.failed", OperationKind::Charge),
            ("order.charge.cancelled", OperationKind::Charge),
            ("order.charge.capture.failed", OperationKind::Capture),
            ("order.charge.reauth.failed", OperationKind::Reauthorization),
            ("order.charge.refund.failed", OperationKind::Refund),
        ] {
            let event = parse(event_type, r#"{"id":"c","orderId":"o"}"#).unwrap();
            assert!(states(&event).contains(&(kind, "c", "", Some(Failed))), "{event_type}: {:?}", states(&event));
        }
        let unknown = parse("order.charge.teleported", r#"{"id":"c","orderId":"o"}"#).unwrap();
        assert_eq!(states(&unknown), [(OperationKind::Charge, "c", "", None)]);
    }

    #[test]
    fn an_order_in_place_of_a_charge_is_a_snapshot_too_and_its_charges_are_read_where_they_stand() {
        for object in [
            r#"{"id":"o","items":[],"payment":{"charges":[{"id":"a","state":"capturable"},{"id":"b","state":"failed"}]}}"#,
            r#"{"id":"o","items":[],"charges":[{"id":"a","state":"capturable"},{"id":"b","state":"failed"}]}"#,
        ] {
            let event = parse("order.charge.failed", object).unwrap();
            assert!(event.order.is_some());
            let expected = [
                (OperationKind::Charge, "a", "", Some(OperationState::Complete)),
                (OperationKind::Charge, "b", "", Some(OperationState::Failed)),
            ];
            assert_eq!(states(&event), expected);
        }
    }

    #[test]
    fn a_charge_that_names_no_order_is_not_taken_for_one() {
        for event_type in ["order.charge.failed", "order.chargeback"] {
            for object in [r#"{"id":"c","amount":1,"state":"failed"}"#, r#"{"id":"c","orderId":""}"#] {
                assert_eq!(parse(event_type, object).unwrap_err().code(), "order_id", "{event_type}: {object}");
            }
        }
    }

    #[test]
    fn that_a_charge_failed_counts_from_the_event_that_announces_it() {
        let later = r#"{"id":"c","orderId":"o","state":"failed"}"#;
        assert_eq!(parse("order.charge.cancel.complete", later).unwrap().operations[0].reached, None);
    }
}
