//! What follows from the facts.

use std::fmt;

use chrono::{DateTime, Utc};
use riverlock_schemas::order_state::OrderState;
use serde::Serialize;

use super::Facts;

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not accepted (yet): do not ship.
    OnHold,
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
    /// Digital River says both that the order is complete and that it was cancelled or blocked.
    CompleteAndEnded,
    /// Two different bodies came under one event id.
    Conflict,
    /// A state was named that this version does not know.
    UnknownState,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 8] = [
        Self::OnHold,
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

    /// Whether the order's fulfillment is over. Such a status is only ever followed by another such.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::OnHold | Self::Ready | Self::Fulfilled)
    }

    /// The terminal status that a state of Digital River stands for, if it does.
    fn terminal(state: OrderState) -> Option<Self> {
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
            Self::CompleteAndEnded => "complete_and_ended",
            Self::Conflict => "conflict",
            Self::UnknownState => "unknown_state",
        }
    }
}

impl Facts {
    /// Where the order stands. If it ended in several ways, the later one counts, and of two at the same time the one that
    /// ships less.
    #[must_use]
    pub fn status(&self) -> Status {
        let ends = self.transitions.iter().filter_map(|(&state, &time)| Some((time, Status::terminal(state)?)));
        if let Some((_, end)) = ends.max() {
            return end;
        }
        if self.reached(OrderState::Fulfilled).is_some() {
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
        if self.reached(OrderState::Complete).is_some() && self.halted_at().is_some() {
            anomalies.push(Anomaly::CompleteAndEnded);
        }
        if self.conflicted {
            anomalies.push(Anomaly::Conflict);
        }
        if !self.unknown_states.is_empty() {
            anomalies.push(Anomaly::UnknownState);
        }
        anomalies
    }

    /// When the order was blocked or cancelled, if it was.
    #[must_use]
    pub fn halted_at(&self) -> Option<DateTime<Utc>> {
        [OrderState::Blocked, OrderState::Cancelled].into_iter().filter_map(|state| self.reached(state)).min()
    }
}
