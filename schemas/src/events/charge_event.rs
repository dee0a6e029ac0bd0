//! Events whose object is a charge, for example `order.charge.failed` and `order.charge.capture.failed`.
//!
//! A charge has *operations*: it is authorized (the charge itself), captured, cancelled, refunded. Only the fields that matter
//! to fulfillment are read, that is, the result of each operation; the rest stays in the raw record.

use std::fmt;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::de::MapAccess;

use crate::{
    EventId,
    events::{
        event_type::CHARGE_PREFIX,
        payload::{PayloadError, Times},
    },
    ids::{event_key, is_event_key, key_text},
    wire::{
        Member, Members,
        number::Money,
        scalar::{Id, StateName, Text, text},
        time::Time,
    },
};

/// The kind of a payment operation.
///
/// Source: Digital River's charge: the charge itself, `captures[]`, `cancels[]`, `refunds[]`, and the event
/// `order.charge.reauth.failed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OperationKind {
    /// The authorization.
    Charge,
    /// A new authorization during fulfillment, because the first one had expired.
    Reauthorization,
    /// All or a part of the amount is collected.
    Capture,
    /// All or a part of an authorization is released.
    Cancel,
    /// All or a part of a captured amount is paid back.
    Refund,
}

impl OperationKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Charge, Self::Reauthorization, Self::Capture, Self::Cancel, Self::Refund];

    /// The name in the database, in messages and in output.
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

    /// Parses a name of [`Self::as_str`].
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

/// The state of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OperationState {
    /// Started.
    Pending,
    /// Completed; for a charge: authorized.
    Complete,
    /// Failed; for a charge also: cancelled completely.
    Failed,
}

impl OperationState {
    /// Parses the name of a state; `None` if this version does not know it.
    fn parse(name: &str) -> Option<Self> {
        match name {
            "created" | "pending" | "pending_information" | "processing" => Some(Self::Pending),
            "capturable" | "complete" | "completed" | "succeeded" => Some(Self::Complete),
            "cancelled" | "failed" => Some(Self::Failed),
            _ => None,
        }
    }
}

/// The key of an operation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationKey {
    /// The kind of operation.
    pub kind: OperationKind,
    /// Digital River's id of the charge; empty if the event does not contain it.
    pub charge_id: String,
    /// Digital River's id of the capture, cancel or refund; empty for the charge itself. If it has no id, `@` and the id of the
    /// event that announced it; empty if no event did.
    pub operation_id: String,
}

impl OperationKey {
    /// Digital River's id of the capture, cancel or refund; `None` for the charge itself, and if there is no id.
    #[must_use]
    pub fn own_id(&self) -> Option<&str> {
        let id = self.operation_id.as_str();
        (!id.is_empty() && !is_event_key(id)).then_some(id)
    }
}

/// Fields of an operation other than its state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperationDetails {
    /// The amount in `currency`.
    pub amount: Option<Decimal>,
    /// ISO 4217 code.
    pub currency: Option<String>,
    /// Digital River's failure code. Not to be shown to customers.
    pub failure_code: Option<String>,
    /// The fulfillment that caused it.
    pub fulfillment_id: Option<String>,
}

/// An operation as contained in one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The operation's key.
    pub key: OperationKey,
    /// Its state, and the latest possible time at which it reached it; `None` if the event names no state that this version
    /// knows.
    pub reached: Option<(OperationState, DateTime<Utc>)>,
    /// Further fields.
    pub details: OperationDetails,
}

/// The fields of Digital River's charge that are read, as documented.
#[derive(Debug, Default, PartialEq, JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub(crate) struct WireCharge {
    pub(crate) id: Option<Id>,
    /// The order; absent if the charge is inside an order.
    // Read with the envelope; declared here for the JSON Schema.
    order_id: Option<Id>,
    pub(crate) created_time: Option<Time>,
    pub(crate) currency: Option<Text>,
    amount: Option<Money>,
    /// `pending`, `capturable`, `processing`, `complete`, `failed`, `cancelled` …
    pub(crate) state: Option<StateName>,
    failure_code: Option<Text>,
    captures: Option<Vec<WireOperation>>,
    cancels: Option<Vec<WireOperation>>,
    refunds: Option<Vec<WireOperation>>,
}

impl<'de> Members<'de> for WireCharge {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, value: Member<'_, A>) -> Result<(), A::Error> {
        match key {
            "id" => value.value(&mut self.id),
            "createdTime" => value.value(&mut self.created_time),
            "currency" => value.value(&mut self.currency),
            "amount" => value.value(&mut self.amount),
            "state" => value.value(&mut self.state),
            "failureCode" => value.value(&mut self.failure_code),
            "captures" => value.list(&mut self.captures),
            "cancels" => value.list(&mut self.cancels),
            "refunds" => value.list(&mut self.refunds),
            _ => value.ignore(),
        }
    }
}

/// The fields of a capture, cancel or refund that are read, as documented.
#[derive(Debug, Default, PartialEq, JsonSchema)]
#[schemars(rename_all = "camelCase")]
struct WireOperation {
    id: Option<Id>,
    created_time: Option<Time>,
    amount: Option<Money>,
    /// `pending`, `complete`, `failed` …
    state: Option<StateName>,
    failure_code: Option<Text>,
    fulfillment_id: Option<Text>,
}

impl<'de> Members<'de> for WireOperation {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, value: Member<'_, A>) -> Result<(), A::Error> {
        match key {
            "id" => value.value(&mut self.id),
            "createdTime" => value.value(&mut self.created_time),
            "amount" => value.value(&mut self.amount),
            "state" => value.value(&mut self.state),
            "failureCode" => value.value(&mut self.failure_code),
            "fulfillmentId" => value.value(&mut self.fulfillment_id),
            _ => value.ignore(),
        }
    }
}

/// An event about a charge.
pub(crate) struct Announcement<'a> {
    /// The operation and state that the type announces.
    announced: Option<(OperationKind, OperationState)>,
    event_id: &'a EventId,
    as_of: DateTime<Utc>,
    times: Times<'a>,
}

impl<'a> Announcement<'a> {
    pub(crate) fn new(event_type: &str, event_id: &'a EventId, as_of: DateTime<Utc>, times: Times<'a>) -> Self {
        Self { announced: announced(event_type), event_id, as_of, times }
    }
}

/// The operation and state that a charge event's type announces: `order.charge.capture.failed` announces a failed capture.
fn announced(event_type: &str) -> Option<(OperationKind, OperationState)> {
    let name = event_type.strip_prefix(CHARGE_PREFIX)?;
    let Some((kind, state)) = name.split_once('.') else {
        return Some((OperationKind::Charge, OperationState::parse(name)?));
    };
    let kind = if kind == "reauth" { OperationKind::Reauthorization } else { OperationKind::parse(kind)? };
    Some((kind, OperationState::parse(state)?))
}

/// The operations of an event's charges. There are several charges if the event contains an order.
///
/// # Errors
/// When an amount is invalid.
pub(crate) fn operations(event: &Announcement<'_>, charges: Vec<WireCharge>) -> Result<Vec<Operation>, PayloadError> {
    let id = |charge: &WireCharge| key_text(charge.id.as_ref().map(|id| id.0.as_str()));
    let only = if let [charge] = &charges[..] { id(charge) } else { String::new() };
    let mut operations = Vec::new();
    for charge in charges {
        let charge_id = id(&charge);
        charge.read(event, &charge_id, &mut operations)?;
    }
    // The event's type announces an operation. If the charge does not contain it, it is added.
    if let Some((kind, state)) = event.announced {
        let told = |operation: &Operation| {
            operation.key.kind == kind && operation.reached.is_some_and(|(reached, _)| reached == state)
        };
        if !operations.iter().any(told) {
            // A charge has one authorization, but may have several other operations. One without an id gets a key from the
            // event.
            let operation_id = if kind == OperationKind::Charge { String::new() } else { event_key(event.event_id) };
            let key = OperationKey { kind, charge_id: only, operation_id };
            let details = OperationDetails::default();
            operations.push(Operation { key, reached: Some((state, event.as_of)), details });
        }
    }
    Ok(operations)
}

impl WireCharge {
    fn read(self, event: &Announcement<'_>, charge_id: &str, to: &mut Vec<Operation>) -> Result<(), PayloadError> {
        let currency = text(self.currency);
        let created = event.times.read(self.created_time);
        let state = self.state.and_then(|StateName(name)| OperationState::parse(&name));
        to.push(Operation {
            key: OperationKey {
                kind: OperationKind::Charge,
                charge_id: charge_id.to_owned(),
                operation_id: String::new(),
            },
            reached: match state {
                // A charge's failure counts only in the event that announces it, not in every event that contains it, because
                // the order may have been accepted with another charge meanwhile.
                Some(OperationState::Failed)
                    if event.announced != Some((OperationKind::Charge, OperationState::Failed)) =>
                {
                    None
                }
                Some(state) => Some((state, since(state, created, event.as_of))),
                None => None,
            },
            details: OperationDetails {
                amount: Money::amount(self.amount).map_err(PayloadError::Shape)?,
                currency: currency.clone(),
                failure_code: text(self.failure_code),
                fulfillment_id: None,
            },
        });
        let parts = [
            (OperationKind::Capture, self.captures),
            (OperationKind::Cancel, self.cancels),
            (OperationKind::Refund, self.refunds),
        ];
        for (kind, list) in parts {
            for operation in list.into_iter().flatten() {
                to.push(operation.read(event, kind, charge_id.to_owned(), currency.clone())?);
            }
        }
        Ok(())
    }
}

impl WireOperation {
    fn read(
        self,
        event: &Announcement<'_>,
        kind: OperationKind,
        charge_id: String,
        currency: Option<String>,
    ) -> Result<Operation, PayloadError> {
        let created = event.times.read(self.created_time);
        let state = self.state.and_then(|StateName(name)| OperationState::parse(&name));
        let mut reached = state.map(|state| (state, since(state, created, event.as_of)));
        let mut operation_id = key_text(self.id.as_ref().map(|id| id.0.as_str()));
        if operation_id.is_empty() {
            // Operations without an id can only be distinguished by the event that announces them. Later events of the charge
            // contain them again, so a failure counts only in the announcing event. Otherwise it would have several effects.
            if state.is_some() && event.announced == state.map(|state| (kind, state)) {
                operation_id = event_key(event.event_id);
            } else if state == Some(OperationState::Failed) {
                reached = None;
            }
        }
        Ok(Operation {
            key: OperationKey { kind, charge_id, operation_id },
            reached,
            details: OperationDetails {
                amount: Money::amount(self.amount).map_err(PayloadError::Shape)?,
                currency,
                failure_code: text(self.failure_code),
                fulfillment_id: text(self.fulfillment_id),
            },
        })
    }
}

/// An operation is pending since its creation; its end is known only from the event.
fn since(state: OperationState, created: Option<DateTime<Utc>>, as_of: DateTime<Utc>) -> DateTime<Utc> {
    if state == OperationState::Pending { created.unwrap_or(as_of) } else { as_of }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Envelope,
        events::{order_event::OrderEvent, payload::PayloadError},
    };

    fn parse(event_type: &str, object: &str) -> Result<OrderEvent, PayloadError> {
        let body = format!(
            r#"{{"id":"e","type":"{event_type}","liveMode":false,"createdTime":"2026-01-01T00:00:00Z","data":{{"object":{object}}}}}"#
        );
        OrderEvent::parse(&Envelope::parse(body.as_bytes()).unwrap(), body.as_bytes(), None)
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
    fn all_operations_of_a_charge_are_read() {
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
        assert!(event.operations[3].reached.unwrap().1 < event.as_of, "pending since its creation");
    }

    #[test]
    fn an_announced_operation_is_added_if_the_charge_does_not_contain_it() {
        use OperationState::Failed;
        for (event_type, kind) in [
            ("order.charge.failed", OperationKind::Charge),
            ("order.charge.cancelled", OperationKind::Charge),
            ("order.charge.capture.failed", OperationKind::Capture),
            ("order.charge.reauth.failed", OperationKind::Reauthorization),
            ("order.charge.refund.failed", OperationKind::Refund),
        ] {
            let event = parse(event_type, r#"{"id":"c","orderId":"o"}"#).unwrap();
            let operation_id = if kind == OperationKind::Charge { "" } else { "@e" };
            let expected = (kind, "c", operation_id, Some(Failed));
            assert!(states(&event).contains(&expected), "{event_type}: {:?}", states(&event));
        }
        let unknown = parse("order.charge.teleported", r#"{"id":"c","orderId":"o"}"#).unwrap();
        assert_eq!(states(&unknown), [(OperationKind::Charge, "c", "", None)]);
    }

    #[test]
    fn an_order_instead_of_a_charge_is_read_as_a_snapshot_with_charges() {
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
    fn a_charge_without_an_order_id_is_not_read_as_an_order() {
        for event_type in ["order.charge.failed", "order.chargeback"] {
            for object in [r#"{"id":"c","amount":1,"state":"failed"}"#, r#"{"id":"c","orderId":""}"#] {
                assert_eq!(parse(event_type, object).unwrap_err().code(), "order_id", "{event_type}: {object}");
            }
        }
    }

    #[test]
    fn the_failure_of_a_charge_counts_only_in_the_announcing_event() {
        let later = r#"{"id":"c","orderId":"o","state":"failed"}"#;
        assert_eq!(parse("order.charge.cancel.complete", later).unwrap().operations[0].reached, None);
    }

    #[test]
    fn an_operation_without_an_id_is_keyed_by_its_event_and_fails_once() {
        use OperationKind::{Capture, Charge};
        use OperationState::{Complete, Failed};
        let charge = r#"{"id":"c","orderId":"o","captures":[{"state":"failed"},{"id":"@e","state":"complete"}]}"#;
        let announced = parse("order.charge.capture.failed", charge).unwrap();
        let hashed = key_text(Some("@e"));
        assert_eq!(
            states(&announced),
            [
                (Charge, "c", "", None),
                (Capture, "c", "@e", Some(Failed)),
                (Capture, "c", hashed.as_str(), Some(Complete))
            ]
        );
        assert_eq!(announced.operations[1].key.own_id(), None);
        assert_eq!(announced.operations[2].key.own_id(), Some(hashed.as_str()));
        let mentioned = parse("order.charge.refund.complete", charge).unwrap();
        assert!(states(&mentioned).contains(&(Capture, "c", "", None)), "{:?}", states(&mentioned));
    }

    #[test]
    fn amounts_are_exact_and_other_fields_can_be_unusual() {
        let odd = r#"{"id":7,"orderId":8,"amount":" 30.10 ","currency":978,"state":"failed","failureCode":51,
            "captures":{"id":9,"amount":"","state":"failed","fulfillmentId":true},"cancels":"none","refunds":[null,"x"]}"#;
        let event = parse("order.charge.failed", odd).unwrap();
        assert_eq!(event.order_id.as_str(), "8");
        let [charge, capture] = &event.operations[..] else { panic!("{:?}", event.operations) };
        assert_eq!((charge.key.charge_id.as_str(), charge.details.failure_code.as_deref()), ("7", Some("51")));
        assert_eq!(charge.details.amount.unwrap().to_string(), "30.1");
        assert_eq!((capture.key.operation_id.as_str(), capture.details.amount), ("9", None));
        assert_eq!(capture.details.fulfillment_id.as_deref(), Some("true"));
        for amount in ["\"a lot\"", "true", "{}", "1e400", "\"1_000\""] {
            for object in [
                format!(r#"{{"id":"c","orderId":"o","amount":{amount}}}"#),
                format!(r#"{{"id":"c","orderId":"o","captures":[{{"amount":{amount}}}]}}"#),
            ] {
                assert_eq!(parse("order.charge.failed", &object).unwrap_err().code(), "shape", "{object}");
            }
        }
    }
}
