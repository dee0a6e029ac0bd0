//! The states that Digital River names in an order's `state` and `stateTransitions`.

use std::fmt;

use serde::Serialize;

/// A state of an order, as Digital River names it.
///
/// Source: Digital River's order lifecycle: `pending_payment` → `in_review` → `accepted` → `fulfilled` → `complete`; ends
/// early in `blocked` or `cancelled`; later `returned`, `dispute`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderState {
    /// The customer has still to pay.
    PendingPayment,
    /// A fraud review is open.
    InReview,
    /// Payment is authorized and the fraud check passed: fulfillment may start.
    Accepted,
    /// Every line is shipped or cancelled.
    Fulfilled,
    /// Fulfilled and captured: the money is there.
    Complete,
    /// Ended by fraud or denied-party screening.
    Blocked,
    /// Ended before anything was shipped.
    Cancelled,
    /// Sent back after the sale.
    Returned,
    /// Disputed after the sale.
    Dispute,
}

impl OrderState {
    /// Every state, in the order of an order's life.
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

    /// The name that Digital River writes.
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

    /// The state of that name; `None` for a name that this version does not know.
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
    /// Sent back after the sale.
    Returned,
}

impl LineState {
    /// Every state, in the order of a line's life.
    pub const ALL: [Self; 6] =
        [Self::Created, Self::Fulfilled, Self::Paid, Self::Cancelled, Self::Blocked, Self::Returned];

    /// The name that Digital River writes.
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

    /// The state of that name; `None` for a name that this version does not know.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}
