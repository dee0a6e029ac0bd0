//! Checks a shipment against its order's facts. Pure.

use std::collections::{BTreeMap, BTreeSet};

use riverlock_digital_river::fulfillments::Line;

/// Most lines of a report.
pub const LINES_MAX: usize = 1_000;

/// Largest quantity of a line.
const QUANTITY_MAX: i64 = 1_000_000_000;

/// Facts of an order that a shipment is checked against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownOrder {
    /// The order's status, for example `ready`.
    pub status: String,
    /// Whether Digital River has accepted it.
    pub accepted: bool,
    /// Ordered quantities by line, where known.
    pub lines: BTreeMap<String, Option<i64>>,
    /// Quantities by line that were reported, by any source, or are being reported.
    pub reported: BTreeMap<String, i64>,
}

/// Why a shipment is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleViolation {
    /// There is no such order.
    #[error("unknown order {0}: none of its events has been processed yet")]
    UnknownOrder(String),
    /// The order is blocked or cancelled.
    #[error("the order is {0} and must not be shipped")]
    Stopped(String),
    /// The order is not accepted.
    #[error("the order is {0}: Digital River has not accepted it yet")]
    NotAccepted(String),
    /// No lines, or too many.
    #[error("a shipment has 1 to {LINES_MAX} lines")]
    Lines,
    /// A line is given twice.
    #[error("line {0} is given twice")]
    Repeated(String),
    /// A quantity is negative or too large, or both are 0.
    #[error("line {0} needs a quantity or a cancel quantity above 0")]
    Quantity(String),
    /// The order has no such line.
    #[error("the order has no line {0}")]
    UnknownLine(String),
    /// More than the open quantity.
    #[error("line {line_id}: {asked} to be shipped or cancelled, but only {open} of {quantity} are open")]
    TooMany {
        /// Line id.
        line_id: String,
        /// Shipped and cancelled quantity together.
        asked: i64,
        /// Open quantity.
        open: i64,
        /// Ordered quantity.
        quantity: i64,
    },
}

impl RuleViolation {
    /// A stable name for API clients.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownOrder(_) => "unknown_order",
            Self::Stopped(_) => "order_stopped",
            Self::NotAccepted(_) => "order_not_accepted",
            Self::Lines => "invalid_lines",
            Self::Repeated(_) => "repeated_line",
            Self::Quantity(_) => "invalid_quantity",
            Self::UnknownLine(_) => "unknown_line",
            Self::TooMany { .. } => "quantity_too_large",
        }
    }
}

/// Checks a shipment.
///
/// # Errors
/// The first problem.
pub fn check(known: &KnownOrder, lines: &[Line]) -> Result<(), RuleViolation> {
    if matches!(known.status.as_str(), "blocked" | "cancelled") {
        return Err(RuleViolation::Stopped(known.status.clone()));
    }
    if !known.accepted {
        return Err(RuleViolation::NotAccepted(known.status.clone()));
    }
    if lines.is_empty() || lines.len() > LINES_MAX {
        return Err(RuleViolation::Lines);
    }
    let mut seen = BTreeSet::new();
    for line in lines {
        if !seen.insert(&line.line_id) {
            return Err(RuleViolation::Repeated(line.line_id.clone()));
        }
        let counts = [line.quantity, line.cancel_quantity];
        if counts.iter().any(|count| !(0..=QUANTITY_MAX).contains(count)) || counts == [0, 0] {
            return Err(RuleViolation::Quantity(line.line_id.clone()));
        }
        let quantity =
            known.lines.get(&line.line_id).ok_or_else(|| RuleViolation::UnknownLine(line.line_id.clone()))?;
        // If the ordered quantity is unknown, Digital River has to check it.
        let Some(quantity) = *quantity else { continue };
        let open = (quantity - known.reported.get(&line.line_id).copied().unwrap_or_default()).max(0);
        let asked = line.quantity + line.cancel_quantity;
        if asked > open {
            return Err(RuleViolation::TooMany { line_id: line.line_id.clone(), asked, open, quantity });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(line_id: &str, quantity: i64, cancel_quantity: i64) -> Line {
        Line { line_id: line_id.into(), quantity, cancel_quantity }
    }

    #[test]
    fn a_shipment_must_not_exceed_the_open_quantity() {
        let known = KnownOrder {
            status: "ready".into(),
            accepted: true,
            lines: [("a".to_owned(), Some(3)), ("b".to_owned(), Some(1)), ("c".to_owned(), None)].into(),
            reported: [("a".to_owned(), 1)].into(),
        };
        for (lines, code) in [
            (vec![line("a", 2, 0), line("b", 0, 1)], ""),
            (vec![line("a", 1, 1), line("c", 99, 0)], ""),
            (vec![line("a", 2, 1)], "quantity_too_large"),
            (vec![line("b", i64::MAX, 1)], "invalid_quantity"),
            (vec![line("a", -1, 2)], "invalid_quantity"),
            (vec![line("a", 0, 0)], "invalid_quantity"),
            (vec![line("a", 1, 0), line("a", 1, 0)], "repeated_line"),
            (vec![line("x", 1, 0)], "unknown_line"),
            (vec![], "invalid_lines"),
        ] {
            assert_eq!(check(&known, &lines).err().map_or("", |refusal| refusal.code()), code, "{lines:?}");
        }
        for (status, accepted, code) in [
            ("cancelled", true, "order_stopped"),
            ("blocked", true, "order_stopped"),
            ("on_hold", false, "order_not_accepted"),
        ] {
            let known = KnownOrder { status: status.into(), accepted, ..known.clone() };
            assert_eq!(check(&known, &[line("a", 1, 0)]).unwrap_err().code(), code);
        }
    }
}
