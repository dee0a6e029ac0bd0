//! Shipped and cancelled quantities, failed payments, and the statuses of Digital River's Salesforce app.
//!
//! That app keeps a *fulfillment record* of each order with three statuses, which its users know:
//!
//! * **OFI received** (order fulfillment instruction): `order.accepted` was received. [`Facts::ofi_received`].
//! * **EFN status** (electronic fulfillment notice): how much of the order was reported to Digital River, `open`, `pending` or
//!   `completed`. [`Facts::efn_status`]. In the app, `pending` is a report that failed. Riverlock derives the status from
//!   Digital River's events, and its `pending` is an order of which only a part is reported.
//! * **OCN received** (order complete notification): `order.complete` was received. [`Facts::ocn_received`].
//!
//! The first and the last are about *events*: another event's `stateTransitions` can show that an order is accepted or complete
//! although the event itself was never received.

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

/// How much of an order was reported as shipped or cancelled: the Salesforce app's EFN status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EfnStatus {
    /// Nothing was reported.
    Open,
    /// A part was reported.
    Pending,
    /// Every line was reported completely.
    Completed,
}

impl EfnStatus {
    /// The name in output.
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

/// Quantities of a line, in units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantities {
    /// Units ordered; `None` until an event contains the line.
    pub ordered: Option<i64>,
    /// Units shipped or delivered.
    pub fulfilled: i64,
    /// Units that will not be shipped.
    pub cancelled: i64,
}

impl Quantities {
    /// Whether all ordered units are shipped or cancelled.
    #[must_use]
    pub fn is_settled(self) -> bool {
        self.ordered.is_some_and(|ordered| self.fulfilled.saturating_add(self.cancelled) >= ordered)
    }

    /// Whether more units were reported than ordered.
    #[must_use]
    pub fn is_exceeded(self) -> bool {
        self.ordered.is_some_and(|ordered| self.fulfilled.saturating_add(self.cancelled) > ordered)
    }
}

impl Facts {
    /// The quantities of each line, including lines that only a fulfillment names.
    ///
    /// Quantities are the sums of the reports. If Digital River shows a line as fulfilled or cancelled, all its units count as
    /// such, even if events with its fulfillments are missing.
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

    /// Whether `order.accepted` was received.
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

    /// Whether `order.complete` was received.
    #[must_use]
    pub fn ocn_received(&self) -> bool {
        self.seen.contains(event_type::ORDER_COMPLETE)
    }

    /// The time at which the order's payment failed, unless Digital River accepted the order later with another payment.
    ///
    /// Compares the latest failure with the earliest acceptance, so that the result of an accepted order never becomes `None`
    /// again.
    #[must_use]
    pub fn payment_failed_at(&self) -> Option<DateTime<Utc>> {
        let failed = self.operations_of(OperationKind::Charge).filter_map(|(_, charge)| charge.failed_at).max()?;
        self.reached(OrderState::Accepted).is_none_or(|accepted| failed >= accepted).then_some(failed)
    }

    /// Failed captures and failed reauthorizations.
    pub fn failed_captures(&self) -> impl Iterator<Item = (&OperationKey, &OperationFacts)> {
        let kinds = [OperationKind::Capture, OperationKind::Reauthorization];
        kinds.into_iter().flat_map(move |kind| self.operations_of(kind)).filter(|(_, facts)| facts.failed_at.is_some())
    }

    /// The sum of the completed operations of a kind.
    #[must_use]
    pub fn moved(&self, kind: OperationKind) -> Decimal {
        let done = self.operations_of(kind).filter(|(_, facts)| facts.complete_at.is_some());
        done.filter_map(|(_, facts)| facts.details.amount).fold(Decimal::ZERO, Decimal::saturating_add)
    }

    fn operations_of(&self, kind: OperationKind) -> impl Iterator<Item = (&OperationKey, &OperationFacts)> {
        self.operations.iter().filter(move |(key, _)| key.kind == kind)
    }
}
