//! `riverlock refold` on the command line.

use clap::{ArgGroup, Args};
use riverlock_processor::domain::Status;
use riverlock_schemas::OrderId;

use crate::{
    look::orders::args::status,
    options::{
        moment::Moment,
        operator::{By, Reason},
    },
    terminal::out::Output,
};

/// Which orders are folded again, and what is done with what differs.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(["order_id", "status", "since", "all"]))]
pub struct RefoldOptions {
    /// Digital River's ids of orders
    #[arg(value_parser = order_id, conflicts_with_all = ["status", "since", "all"])]
    pub order_id: Vec<OrderId>,
    /// Orders that are stored with this status
    #[arg(long, value_parser = status, conflicts_with = "all")]
    pub status: Option<Status>,
    /// Orders that were changed since: a time such as 2026-01-31T08:00:00Z, or how long ago, such as 36h
    #[arg(long, value_name = "TIME", conflicts_with = "all")]
    pub since: Option<Moment>,
    /// Every order
    #[arg(long)]
    pub all: bool,
    /// Do it: write what differs; without this it is only shown
    #[arg(long)]
    pub apply: bool,
    /// Why it is done
    #[command(flatten)]
    pub reason: Reason,
    /// Who does it
    #[command(flatten)]
    pub by: By,
    /// How to print it
    #[command(flatten)]
    pub output: Output,
}

fn order_id(text: &str) -> Result<OrderId, String> {
    OrderId::parse(text).map_err(|error| format!("the order id {error}"))
}
