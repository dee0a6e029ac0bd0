//! What was shipped, what was not, and what became of the money; also under the names of Digital River's Salesforce app.
//!
//! That app keeps a *fulfillment record* of each order, and people who come from it look for three things:
//!
//! * **OFI received** (order fulfillment instruction): `order.accepted` came. [`Facts::ofi_received`].
//! * **EFN status** (electronic fulfillment notice): how much of the order was reported to Digital River, `open`, `pending`
//!   or `completed`. [`Facts::efn_status`]. The app sends these reports and its `pending` is a report that failed. Riverlock
//!   sends none: it concludes the status from what Digital River says was reported, and its `pending` is an order of which
//!   some is reported and some is not.
//! * **OCN received** (order complete notification): `order.complete` came. [`Facts::ocn_received`].
//!
//! The first and the last are about *events*: an order can be known to be accepted or complete from another event's
//! `stateTransitions` while the event itself never came.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use riverlock_schemas::{
    LineId,
    events::{
        charge_event::{OperationKey, OperationKind},
        event_type,
        order_state::{LineState, OrderState},
    },
};
use rust_decimal::Decimal;
use serde::Serialize;

use super::{Facts, OperationFacts};

/// How much of an order was reported as shipped or never to be shipped: the Salesforce app's EFN status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EfnStatus {
    /// Nothing is reported.
    Open,
    /// Some is.
    Pending,
    /// Every line is.
    Completed,
}

impl EfnStatus {
    /// As in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Pending => "pending",
            Self::Completed => "completed",
        }
    }
}

impl fmt::Display for EfnStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How many pieces of a line were ordered, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantities {
    /// Pieces ordered; `None` until an event shows the line.
    pub ordered: Option<i64>,
    /// Pieces shipped or delivered.
    pub fulfilled: i64,
    /// Pieces never to be shipped.
    pub cancelled: i64,
}

impl Quantities {
    /// Whether all that was ordered is accounted for.
    #[must_use]
    pub fn is_settled(self) -> bool {
        self.ordered.is_some_and(|ordered| self.fulfilled.saturating_add(self.cancelled) >= ordered)
    }

    /// Whether more was reported than was ordered.
    #[must_use]
    pub fn is_exceeded(self) -> bool {
        self.ordered.is_some_and(|ordered| self.fulfilled.saturating_add(self.cancelled) > ordered)
    }
}

impl Facts {
    /// What became of each line, those included that only a fulfillment names.
    ///
    /// The numbers are those that were reported. A line that Digital River shows as fulfilled or cancelled is so to the last
    /// piece, whether or not its reports came.
    #[must_use]
    pub fn quantities(&self) -> BTreeMap<&LineId, Quantities> {
        let mut lines: BTreeMap<&LineId, Quantities> = BTreeMap::new();
        for (line_id, reported) in self.shipments.values().flat_map(|shipment| &shipment.lines) {
            let line = lines.entry(line_id).or_default();
            line.fulfilled = line.fulfilled.saturating_add(reported.fulfilled);
            line.cancelled = line.cancelled.saturating_add(reported.cancelled);
        }
        for (line_id, known) in &self.lines {
            let line = lines.entry(line_id).or_default();
            line.ordered = known.snapshot.content.quantity;
            let rest = line.ordered.unwrap_or_default() - line.fulfilled.saturating_add(line.cancelled);
            if known.transitions.contains_key(&LineState::Fulfilled) {
                line.fulfilled += rest.max(0);
            } else if known.transitions.contains_key(&LineState::Cancelled) {
                line.cancelled += rest.max(0);
            }
        }
        lines
    }

    /// Whether `order.accepted` came.
    #[must_use]
    pub fn ofi_received(&self) -> bool {
        self.seen.contains(event_type::ORDER_ACCEPTED)
    }

    /// How much of the order was reported.
    #[must_use]
    pub fn efn_status(&self) -> EfnStatus {
        if self.reached(OrderState::Fulfilled).is_some() || self.reached(OrderState::Complete).is_some() {
            return EfnStatus::Completed;
        }
        let lines = self.quantities();
        if lines.values().all(|line| line.fulfilled == 0 && line.cancelled == 0) {
            EfnStatus::Open
        } else if lines.values().all(|line| line.is_settled()) {
            EfnStatus::Completed
        } else {
            EfnStatus::Pending
        }
    }

    /// Whether `order.complete` came.
    #[must_use]
    pub fn ocn_received(&self) -> bool {
        self.seen.contains(event_type::ORDER_COMPLETE)
    }

    /// When the order's payment failed, if it did and Digital River did not accept the order after that with another one.
    ///
    /// The latest failure counts and the earliest acceptance, so that it stays true of an accepted order once it is.
    #[must_use]
    pub fn payment_failed_at(&self) -> Option<DateTime<Utc>> {
        let failed = self.operations_of(OperationKind::Charge).filter_map(|(_, charge)| charge.failed_at).max()?;
        self.reached(OrderState::Accepted).is_none_or(|accepted| failed >= accepted).then_some(failed)
    }

    /// Money that could not be taken although it was authorized once: captures and renewed authorizations that failed.
    pub fn failed_captures(&self) -> impl Iterator<Item = (&OperationKey, &OperationFacts)> {
        let kinds = [OperationKind::Capture, OperationKind::Reauthorization];
        kinds.into_iter().flat_map(move |kind| self.operations_of(kind)).filter(|(_, facts)| facts.failed_at.is_some())
    }

    /// How much money was moved for good by operations of a kind.
    #[must_use]
    pub fn moved(&self, kind: OperationKind) -> Decimal {
        let done = self.operations_of(kind).filter(|(_, facts)| facts.complete_at.is_some());
        done.filter_map(|(_, facts)| facts.details.amount).fold(Decimal::ZERO, Decimal::saturating_add)
    }

    fn operations_of(&self, kind: OperationKind) -> impl Iterator<Item = (&OperationKey, &OperationFacts)> {
        self.operations.iter().filter(move |(key, _)| key.kind == kind)
    }
}
