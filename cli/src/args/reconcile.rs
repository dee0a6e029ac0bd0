//! `riverlock reconcile` on the command line.

use std::time::Duration;

use clap::Args;

use super::{moment::Moment, webhooks::ModeArg};

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
    /// The oldest moment: a time, or how long ago; Digital River lists 30 days of events
    #[arg(long, default_value = "30d")]
    pub from: Moment,
    /// The newest moment: a time, or how long ago [default: `reconcile.settle` ago, 10m]
    #[arg(long)]
    pub to: Option<Moment>,
    /// Only this mode; all that have an API key when absent
    #[arg(long, value_enum)]
    pub mode: Option<ModeArg>,
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
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
