//! Status and anomalies, derived from an order's facts.

use std::fmt;

use chrono::{DateTime, Utc};
use riverlock_schemas::events::{event_type, order_state::OrderState};
use serde::Serialize;

use super::{Facts, Quantities};

/// The status of an order, derived from its facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not accepted (yet): do not ship.
    OnHold,
    /// Digital River could not charge, or all charges were cancelled, and it has not accepted the order since: do not ship.
    PaymentFailed,
    /// Payment authorized, fraud check passed: ship.
    Ready,
    /// Every line is shipped or cancelled.
    Fulfilled,
    /// Fulfilled and captured: close it.
    Complete,
    /// Disputed after the sale.
    Disputed,
    /// Returned after the sale.
    Returned,
    /// Ended by fraud or denied-party screening: do not ship.
    Blocked,
    /// Ended before anything was shipped: do not ship.
    Cancelled,
}

/// Facts that contradict each other or that this version does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Anomaly {
    /// Goods were shipped and the capture failed: recall the shipment, or have the customer pay again.
    CaptureFailed,
    /// More units were reported as shipped or cancelled than were ordered.
    ReportedTooMuch,
    /// The order is both complete and cancelled or blocked.
    CompleteAndEnded,
    /// Two bodies with the same event id contradict each other.
    Conflict,
    /// An event names a state that this version does not know.
    UnknownState,
    /// The order is accepted, but no event contains its lines, so fulfillment cannot be requested.
    NoLines,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 9] = [
        Self::OnHold,
        Self::PaymentFailed,
        Self::Ready,
        Self::Fulfilled,
        Self::Complete,
        Self::Disputed,
        Self::Returned,
        Self::Blocked,
        Self::Cancelled,
    ];

    /// The name in the database, in messages and in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnHold => "on_hold",
            Self::PaymentFailed => "payment_failed",
            Self::Ready => "ready",
            Self::Fulfilled => "fulfilled",
            Self::Complete => "complete",
            Self::Disputed => "disputed",
            Self::Returned => "returned",
            Self::Blocked => "blocked",
            Self::Cancelled => "cancelled",
        }
    }

    /// Parses a name of [`Self::as_str`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// Whether the status is terminal. Only another terminal status or a dispute can follow it.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::OnHold | Self::PaymentFailed | Self::Ready | Self::Fulfilled | Self::Disputed)
    }

    /// Whether new facts can change this status to `next`.
    ///
    /// A terminal status can only be followed by another terminal status or by a dispute. When a dispute is resolved, the order
    /// has the status that it would have without the dispute. A failed payment can be followed by a successful one.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::OnHold | Self::PaymentFailed | Self::Disputed => true,
            Self::Ready => next != Self::OnHold,
            Self::Fulfilled => !matches!(next, Self::OnHold | Self::Ready),
            Self::Complete | Self::Returned | Self::Blocked | Self::Cancelled => {
                next.is_terminal() || next == Self::Disputed
            }
        }
    }

    /// The status with which a state of Digital River ends the order, if it does.
    fn final_status(state: OrderState) -> Option<Self> {
        match state {
            OrderState::Complete => Some(Self::Complete),
            OrderState::Dispute => Some(Self::Disputed),
            OrderState::Returned => Some(Self::Returned),
            OrderState::Blocked => Some(Self::Blocked),
            OrderState::Cancelled => Some(Self::Cancelled),
            OrderState::PendingPayment | OrderState::InReview | OrderState::Accepted | OrderState::Fulfilled => None,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Anomaly {
    /// The name in output and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CaptureFailed => "capture_failed",
            Self::ReportedTooMuch => "reported_too_much",
            Self::CompleteAndEnded => "complete_and_ended",
            Self::Conflict => "conflict",
            Self::UnknownState => "unknown_state",
            Self::NoLines => "no_lines",
        }
    }
}

impl Facts {
    /// The order's status. If the order ended in several ways, the latest counts; at the same time, the one later in
    /// [`Status`]. A resolved dispute does not count.
    #[must_use]
    pub fn status(&self) -> Status {
        let counts = |state| state != OrderState::Dispute || !self.dispute_is_resolved();
        let known = self.transitions.iter().filter(|(state, _)| counts(**state));
        let ends = known.filter_map(|(&state, &time)| Some((time, Status::final_status(state)?)));
        if let Some((_, end)) = ends.max() {
            return end;
        }
        if self.payment_failed_at().is_some() {
            Status::PaymentFailed
        } else if self.reached(OrderState::Fulfilled).is_some() {
            Status::Fulfilled
        } else if self.reached(OrderState::Accepted).is_some() {
            Status::Ready
        } else {
            Status::OnHold
        }
    }

    /// The anomalies among the facts.
    #[must_use]
    pub fn anomalies(&self) -> Vec<Anomaly> {
        let mut anomalies = Vec::new();
        // A complete order has been paid, so earlier failures do not matter.
        if self.reached(OrderState::Complete).is_none() && self.failed_captures().next().is_some() {
            anomalies.push(Anomaly::CaptureFailed);
        }
        if self.quantities().into_values().any(Quantities::is_exceeded) {
            anomalies.push(Anomaly::ReportedTooMuch);
        }
        if self.reached(OrderState::Complete).is_some() && self.ended_at().is_some() {
            anomalies.push(Anomaly::CompleteAndEnded);
        }
        if self.conflicted {
            anomalies.push(Anomaly::Conflict);
        }
        if !self.unknown_states.is_empty() {
            anomalies.push(Anomaly::UnknownState);
        }
        if self.reached(OrderState::Accepted).is_some() && self.lines.is_empty() {
            anomalies.push(Anomaly::NoLines);
        }
        anomalies
    }

    /// The time at which the order was blocked or cancelled, whichever was earlier.
    #[must_use]
    pub fn ended_at(&self) -> Option<DateTime<Utc>> {
        [OrderState::Blocked, OrderState::Cancelled].into_iter().filter_map(|state| self.reached(state)).min()
    }

    /// The time from which nothing may be shipped: the order was blocked or cancelled, or its payment failed.
    #[must_use]
    pub fn halted_at(&self) -> Option<DateTime<Utc>> {
        self.ended_at().into_iter().chain(self.payment_failed_at()).min()
    }

    /// Whether the dispute was resolved without a chargeback.
    fn dispute_is_resolved(&self) -> bool {
        self.seen.contains(event_type::ORDER_DISPUTE_RESOLVED) && !self.seen.contains(event_type::ORDER_CHARGEBACK)
    }
}
