//! `riverlock trace` on the command line.

use clap::{Args, ValueEnum};

use crate::terminal::out::Output;

/// What is followed.
#[derive(Clone, Debug, Args)]
pub struct TraceOptions {
    /// Digital River's id of an event or of an order
    pub id: String,
    /// What the id is of, if it is the id of an event and of an order
    #[arg(long = "as", value_name = "KIND")]
    pub kind: Option<Kind>,
    /// How to print it
    #[command(flatten)]
    pub output: Output,
}

/// What an id is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// An event
    Event,
    /// An order
    Order,
}
