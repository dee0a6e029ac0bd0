//! `riverlock reconcile` on the command line.

use std::time::Duration;

use clap::Args;

use crate::{
    options::{mode::ModeOption, moment::Moment},
    terminal::out::Output,
};

/// What is compared with Digital River's events.
#[derive(Debug, Args)]
pub struct ReconcileOptions {
    /// Write missing events to the raw topics; without this they are only reported
    #[arg(long)]
    pub apply: bool,
    /// Compare orders by their states instead of events; nothing is written, and there is no limit of 30 days
    #[arg(long, conflicts_with_all = ["apply", "types", "documents"])]
    pub orders: bool,
    /// Compare invoices and credit memos instead of events; nothing is written, and there is no limit of 30 days
    #[arg(long, conflicts_with_all = ["apply", "types"])]
    pub documents: bool,
    /// What was created at this time or later: 2026-01-31T08:00:00Z, or 24h for 24 hours ago; Digital River lists 30 days of
    /// events
    #[arg(long, value_name = "TIME", default_value = "30d")]
    pub since: Moment,
    /// What was created before this time [default: `reconcile.settle` ago, 10m]
    #[arg(long, value_name = "TIME")]
    pub until: Option<Moment>,
    /// Only this mode; all that have an API key when absent
    #[arg(long, value_enum)]
    pub mode: Option<ModeOption>,
    /// An event type, or a group such as `order.*`; may be given again [default: `reconcile.types`, or those of [[webhooks]]]
    #[arg(long = "type", value_name = "TYPE")]
    pub types: Vec<String>,
    /// How much time one request for a list covers [default: `reconcile.window`, 1h]
    #[arg(long, value_parser = humantime::parse_duration)]
    pub window: Option<Duration>,
    /// Compare everything again instead of going on with an interrupted run
    #[arg(long)]
    pub restart: bool,
    /// Use only the background jobs' share of the rate limit
    #[arg(long)]
    pub background: bool,
    /// How to print it
    #[command(flatten)]
    pub output: Output,
}
