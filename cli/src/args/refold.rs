//! `riverlock refold` on the command line.

use clap::{ArgGroup, Args};
use riverlock_processor::domain::Status;
use riverlock_schemas::OrderId;

use super::moment::Moment;

/// Which orders are folded again, and what is done with what differs.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(["order_id", "status", "changed_since", "all"]))]
pub struct RefoldOptions {
    /// Digital River's ids of orders
    #[arg(value_parser = order_id, conflicts_with_all = ["status", "changed_since", "all"])]
    pub order_id: Vec<OrderId>,
    /// Orders that are stored with this status
    #[arg(long, value_parser = status, conflicts_with = "all")]
    pub status: Option<Status>,
    /// Orders that were changed since: a time such as 2026-01-31T08:00:00Z, or how long ago, such as 36h
    #[arg(long, conflicts_with = "all")]
    pub changed_since: Option<Moment>,
    /// Every order
    #[arg(long)]
    pub all: bool,
    /// Write what differs; without this it is only shown
    #[arg(long, requires = "reason")]
    pub apply: bool,
    /// Why; kept with what the orders were before
    #[arg(long)]
    pub reason: Option<String>,
    /// Who; kept with what the orders were before
    #[arg(long, env = "USER", default_value = "unknown")]
    pub by: String,
    /// Print JSON, one order per line
    #[arg(long)]
    pub json: bool,
}

fn order_id(text: &str) -> Result<OrderId, String> {
    OrderId::parse(text).map_err(|error| format!("the order id {error}"))
}

fn status(text: &str) -> Result<Status, String> {
    Status::ALL.into_iter().find(|status| status.as_str() == text).ok_or_else(|| {
        let known: Vec<&str> = Status::ALL.iter().map(|status| status.as_str()).collect();
        format!("expected one of {}", known.join(", "))
    })
}
