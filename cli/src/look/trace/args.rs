//! Arguments of `riverlock trace`.

use clap::{Args, ValueEnum};

use crate::terminal::out::Output;

/// The id to trace.
#[derive(Clone, Debug, Args)]
pub struct TraceOptions {
    /// Digital River's id of an event or an order
    pub id: String,
    /// What the id belongs to, if an event and an order have the same id
    #[arg(long = "as", value_name = "KIND")]
    pub kind: Option<IdKind>,
    /// The output format
    #[command(flatten)]
    pub output: Output,
}

/// What an id belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IdKind {
    /// An event
    Event,
    /// An order
    Order,
}
