//! Arguments of `riverlock rebuild`.

use clap::Args;

use crate::{
    options::operator::{Operator, Reason},
    terminal::out::Output,
};

/// How the tables are rebuilt, and whether they replace the live ones.
#[derive(Debug, Args)]
pub struct RebuildOptions {
    /// The schema to build in, or the schema that an earlier swap kept, to return to it
    #[arg(long, default_value = riverlock_recovery::rebuild::SCHEMA)]
    pub schema: String,
    /// Drop an earlier, incomplete rebuild and start from the beginning
    #[arg(long)]
    pub fresh: bool,
    /// Replace the live tables with the rebuilt ones; the services must be stopped (default: build and compare)
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
