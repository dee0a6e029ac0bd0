//! Arguments of `riverlock reconcile`.

use std::time::Duration;

use clap::Args;

use crate::{
    options::{mode::ModeOption, moment::Moment},
    terminal::out::Output,
};

/// What is compared with Digital River's lists.
#[derive(Debug, Args)]
pub struct ReconcileOptions {
    /// Write missing events to the raw topics (default: dry run)
    #[arg(long)]
    pub apply: bool,
    /// Compare orders instead of events; nothing is written, and the limit of 30 days does not apply
    #[arg(long, conflicts_with_all = ["apply", "types", "documents"])]
    pub orders: bool,
    /// Compare invoices and credit memos instead of events; nothing is written, and the limit of 30 days does not apply
    #[arg(long, conflicts_with_all = ["apply", "types"])]
    pub documents: bool,
    /// Only what was created at or after this time, such as 2026-01-31T08:00:00Z, or this long ago, such as 24h. Digital River
    /// lists events of the last 30 days
    #[arg(long, value_name = "TIME", default_value = "30d")]
    pub since: Moment,
    /// Only what was created before this time [default: `reconcile.settle` ago, 10m]
    #[arg(long, value_name = "TIME")]
    pub until: Option<Moment>,
    /// Only this mode [default: every mode with an API key]
    #[arg(long, value_enum)]
    pub mode: Option<ModeOption>,
    /// An event type, or a group such as `order.*`; can be repeated [default: `reconcile.types`, or those of [[webhooks]]]
    #[arg(long = "type", value_name = "TYPE")]
    pub types: Vec<String>,
    /// The time span of one request for a list [default: `reconcile.window`, 1h]
    #[arg(long, value_parser = humantime::parse_duration)]
    pub window: Option<Duration>,
    /// Start from the beginning instead of continuing an interrupted run
    #[arg(long)]
    pub restart: bool,
    /// Use only the share of the rate limit that background jobs have
    #[arg(long)]
    pub background: bool,
    /// The output format
    #[command(flatten)]
    pub output: Output,
}
