//! Arguments of `riverlock orders`.

use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use riverlock_processor::{domain::Status, store::ListPosition};
use riverlock_schemas::{Mode, OrderId};

use crate::{
    options::{mode::ModeOption, moment::Moment},
    terminal::out::Output,
};

/// The subcommands of `riverlock orders`.
#[derive(Debug, Subcommand)]
pub enum OrdersCommand {
    /// List orders, newest first
    #[command(after_help = "Examples:
  riverlock orders list --status on_hold --since 36h
  riverlock orders list --conflicted --json")]
    List(ListOptions),
    /// Show an order with its events, messages and invoices
    ///
    /// Starts with the status and with what is wrong or still open; then lines, shipments, charges, events with their
    /// outcomes, messages and invoices.
    #[command(after_help = "Examples:
  riverlock orders show 204440790336")]
    Show {
        /// Digital River's id of the order
        order_id: String,
        /// The output format
        #[command(flatten)]
        output: Output,
    },
}

/// Which orders are listed.
#[derive(Debug, Args)]
pub struct ListOptions {
    /// Only orders with this status
    #[arg(long, value_parser = crate::options::status::status)]
    pub status: Option<Status>,
    /// Only orders of this mode
    #[arg(long)]
    pub mode: Option<ModeOption>,
    /// Only orders first seen at or after this time, such as 2026-01-31T08:00:00Z, or this long ago, such as 36h
    #[arg(long, value_name = "TIME")]
    pub since: Option<Moment>,
    /// Only orders first seen before this time
    #[arg(long, value_name = "TIME", conflicts_with = "after")]
    pub until: Option<Moment>,
    /// Only orders for which two events with the same id have contradicting contents
    #[arg(long)]
    pub conflicted: bool,
    /// Maximum number of orders
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    pub limit: i64,
    /// Continue after this order; the previous page prints the cursor
    #[arg(long, value_name = "CURSOR")]
    pub after: Option<Cursor>,
    /// The output format
    #[command(flatten)]
    pub output: Output,
}

/// An order's position in a list: when it was first seen, its mode, its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub ListPosition);

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ListPosition { first_seen_at, order_id, mode } = &self.0;
        write!(f, "{}/{mode}/{order_id}", first_seen_at.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

impl FromStr for Cursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let position = || {
            let mut parts = text.splitn(3, '/');
            let first_seen_at = DateTime::parse_from_rfc3339(parts.next()?).ok()?.to_utc();
            let mode = parts.next()?;
            let mode = [Mode::Live, Mode::Test].into_iter().find(|known| known.as_str() == mode)?;
            let order_id = OrderId::parse(parts.next()?).ok()?.to_string();
            Some(Self(ListPosition { first_seen_at, order_id, mode }))
        };
        position().ok_or("expected the cursor that the previous page printed")
    }
}

/// The position in the list before all orders that changed at or after `time`.
#[must_use]
pub fn before(time: DateTime<Utc>) -> ListPosition {
    ListPosition { first_seen_at: time, order_id: String::new(), mode: Mode::Test }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_cursor_is_parsed_to_the_same_position() {
        let first_seen_at = DateTime::from_timestamp_micros(1_767_225_600_123_456).unwrap();
        for order_id in ["204440790336", "a/b '", "ордер"] {
            let cursor = Cursor(ListPosition { first_seen_at, order_id: order_id.to_owned(), mode: Mode::Live });
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for text in ["", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z/both/a", "yesterday/live/a"] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
