//! `riverlock trace` on the command line.

use clap::Args;

/// What is followed.
#[derive(Clone, Debug, Args)]
pub struct TraceOptions {
    /// Digital River's id of an event or of an order
    pub id: String,
    /// Take the id for an event's only
    #[arg(long, conflicts_with = "order")]
    pub event: bool,
    /// Take the id for an order's only
    #[arg(long)]
    pub order: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
