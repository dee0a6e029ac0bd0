//! States in `state` and `stateTransitions` of Digital River's orders and lines.

use std::fmt;

use serde::Serialize;

/// A state of an order at Digital River.
///
/// Source: Digital River's order lifecycle: `pending_payment` → `in_review` → `accepted` → `fulfilled` → `complete`; ends
/// early in `blocked` or `cancelled`; later `returned`, `dispute`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderState {
    /// The customer has not paid yet.
    PendingPayment,
    /// A fraud review is open.
    InReview,
    /// Payment is authorized and the fraud check passed: fulfillment may start.
    Accepted,
    /// Every line is shipped or cancelled.
    Fulfilled,
    /// Fulfilled and captured.
    Complete,
    /// Ended by fraud or denied-party screening.
    Blocked,
    /// Ended before anything was shipped.
    Cancelled,
    /// Returned after the sale.
    Returned,
    /// Disputed after the sale.
    Dispute,
}

impl OrderState {
    /// Every state, in the order of an order's lifecycle.
    pub const ALL: [Self; 9] = [
        Self::PendingPayment,
        Self::InReview,
        Self::Accepted,
        Self::Fulfilled,
        Self::Complete,
        Self::Blocked,
        Self::Cancelled,
        Self::Returned,
        Self::Dispute,
    ];

    /// Digital River's name of the state.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PendingPayment => "pending_payment",
            Self::InReview => "in_review",
            Self::Accepted => "accepted",
            Self::Fulfilled => "fulfilled",
            Self::Complete => "complete",
            Self::Blocked => "blocked",
            Self::Cancelled => "cancelled",
            Self::Returned => "returned",
            Self::Dispute => "dispute",
        }
    }

    /// Parses the name of a state; `None` if this version does not know it.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

impl fmt::Display for OrderState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A state of one line of an order.
///
/// Source: Digital River's item `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LineState {
    /// Ordered.
    Created,
    /// Shipped or delivered.
    Fulfilled,
    /// Paid.
    Paid,
    /// Cancelled.
    Cancelled,
    /// Ended by fraud or denied-party screening.
    Blocked,
    /// Returned after the sale.
    Returned,
}

impl LineState {
    /// Every state, in the order of a line's lifecycle.
    pub const ALL: [Self; 6] =
        [Self::Created, Self::Fulfilled, Self::Paid, Self::Cancelled, Self::Blocked, Self::Returned];

    /// Digital River's name of the state.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Fulfilled => "fulfilled",
            Self::Paid => "paid",
            Self::Cancelled => "cancelled",
            Self::Blocked => "blocked",
            Self::Returned => "returned",
        }
    }

    /// Parses the name of a state; `None` if this version does not know it.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}
