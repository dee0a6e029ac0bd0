//! Arguments of `riverlock refold`.

use clap::{ArgGroup, Args};
use riverlock_processor::domain::Status;
use riverlock_schemas::OrderId;

use crate::{
    options::{
        moment::Moment,
        operator::{Operator, Reason},
        status::status,
    },
    terminal::out::Output,
};

/// Which orders are recomputed, and whether differences are written.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(["order_id", "status", "since", "all"]))]
pub struct RefoldOptions {
    /// Digital River's ids of the orders
    #[arg(value_parser = order_id, conflicts_with_all = ["status", "since", "all"])]
    pub order_id: Vec<OrderId>,
    /// Orders that are stored with this status
    #[arg(long, value_parser = status, conflicts_with = "all")]
    pub status: Option<Status>,
    /// Orders that changed at or after this time, such as 2026-01-31T08:00:00Z, or this long ago, such as 36h
    #[arg(long, value_name = "TIME", conflicts_with = "all")]
    pub since: Option<Moment>,
    /// All orders
    #[arg(long)]
    pub all: bool,
    /// Write what differs (default: dry run)
    #[arg(long)]
    pub apply: bool,
    /// The reason
    #[command(flatten)]
    pub reason: Reason,
    /// The operator
    #[command(flatten)]
    pub operator: Operator,
    /// The output format
    #[command(flatten)]
    pub output: Output,
}

fn order_id(text: &str) -> Result<OrderId, String> {
    OrderId::parse(text).map_err(|error| format!("the order id {error}"))
}
