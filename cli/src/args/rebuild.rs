//! `riverlock rebuild` on the command line.

use clap::Args;

/// How the tables are built again, and what is done with them.
#[derive(Debug, Args)]
pub struct RebuildOptions {
    /// The schema that is built in, or one that was kept by a swap, to go back to it
    #[arg(long, default_value = riverlock_ledger::rebuild::SCHEMA)]
    pub schema: String,
    /// Drop what was built before, and begin again
    #[arg(long)]
    pub fresh: bool,
    /// Put the rebuilt tables in the live ones' place; services must be stopped
    #[arg(long, requires = "reason")]
    pub swap: bool,
    /// Really swap; without this it is only said what would be done
    #[arg(long, requires = "swap")]
    pub yes: bool,
    /// Why; kept with the tables
    #[arg(long)]
    pub reason: Option<String>,
    /// Who; kept with the tables
    #[arg(long, env = "USER", default_value = "unknown")]
    pub by: String,
    /// Print the comparison as JSON
    #[arg(long)]
    pub json: bool,
}
