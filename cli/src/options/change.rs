//! The options of commands that change data.

use clap::Args;

use super::operator::{Operator, Reason};
use crate::terminal::out::Output;

/// Whether changes are applied, by whom and why, and how the result is printed.
#[derive(Debug, Args)]
pub struct ChangeOptions {
    /// The reason
    #[command(flatten)]
    pub reason: Reason,
    /// The operator
    #[command(flatten)]
    pub operator: Operator,
    /// Apply the changes (default: dry run)
    #[arg(long)]
    pub apply: bool,
    /// The output format
    #[command(flatten)]
    pub output: Output,
}
