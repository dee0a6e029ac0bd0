//! What follows from the facts.

use std::fmt;

use chrono::{DateTime, Utc};
use riverlock_schemas::events::{event_type, order_state::OrderState};
use serde::Serialize;

use super::{Facts, Quantities};

/// Where an order stands.
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
    /// Sent back after the sale.
    Returned,
    /// Ended by fraud or denied-party screening: do not ship.
    Blocked,
    /// Ended before anything was shipped: do not ship.
    Cancelled,
}

/// Facts that do not go together, or that this version does not understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Anomaly {
    /// Something was shipped, and its money was not captured: recall it, or have the customer pay again.
    CaptureFailed,
    /// More pieces were reported as shipped or cancelled than were ordered.
    ReportedTooMuch,
    /// Digital River says both that the order is complete and that it was cancelled or blocked.
    CompleteAndEnded,
    /// Two bodies that contradict each other came under one event id.
    Conflict,
    /// A state was named that this version does not know.
    UnknownState,
    /// The order is accepted, and no event has shown a line of it: there is nothing that fulfillment could be requested for.
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

    /// As in the database, messages and output.
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

    /// The status of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// Whether the order is over. Such a status is only ever followed by another such, or by a dispute.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::OnHold | Self::PaymentFailed | Self::Ready | Self::Fulfilled | Self::Disputed)
    }

    /// The statuses that may follow when more becomes known.
    ///
    /// What is over stays over: an end is followed by another end, or by a dispute. A dispute may be resolved, and the order
    /// is then what it would be without. A payment that failed may be followed by another one that did not.
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

    /// The end that a state of Digital River stands for, if it does.
    fn end(state: OrderState) -> Option<Self> {
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
    /// As in output and labels.
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
    /// Where the order stands. If it ended in several ways, the later one counts, and of two at the same time the one that
    /// ships less. A dispute that was resolved does not count any more.
    #[must_use]
    pub fn status(&self) -> Status {
        let counts = |state| state != OrderState::Dispute || !self.dispute_is_resolved();
        let known = self.transitions.iter().filter(|(state, _)| counts(**state));
        let ends = known.filter_map(|(&state, &time)| Some((time, Status::end(state)?)));
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

    /// What does not go together.
    #[must_use]
    pub fn anomalies(&self) -> Vec<Anomaly> {
        let mut anomalies = Vec::new();
        // Once the order is complete, the money is there after all.
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

    /// When the order was blocked or cancelled, if it was.
    #[must_use]
    pub fn ended_at(&self) -> Option<DateTime<Utc>> {
        [OrderState::Blocked, OrderState::Cancelled].into_iter().filter_map(|state| self.reached(state)).min()
    }

    /// When shipping had to stop: the order was blocked or cancelled, or its payment failed.
    #[must_use]
    pub fn halted_at(&self) -> Option<DateTime<Utc>> {
        self.ended_at().into_iter().chain(self.payment_failed_at()).min()
    }

    /// Whether the dispute is over: Digital River said so, and the customer has not been given the money back.
    fn dispute_is_resolved(&self) -> bool {
        self.seen.contains(event_type::ORDER_DISPUTE_RESOLVED) && !self.seen.contains(event_type::ORDER_CHARGEBACK)
    }
}
