//! `riverlock rebuild` on the command line.

use clap::Args;

use crate::{
    options::operator::{By, Reason},
    terminal::out::Output,
};

/// How the tables are built again, and what is done with them.
#[derive(Debug, Args)]
pub struct RebuildOptions {
    /// The schema that is built in, or one that was kept by a swap, to go back to it
    #[arg(long, default_value = riverlock_recovery::rebuild::SCHEMA)]
    pub schema: String,
    /// Drop what was built before, and begin again
    #[arg(long)]
    pub fresh: bool,
    /// Do it: put the rebuilt tables in the live ones' place; the services must be stopped. Without this they are only built
    /// beside the live ones and compared with them
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
