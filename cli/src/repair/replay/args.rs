//! `riverlock replay`.

use std::num::NonZeroU32;

use clap::{Args, Subcommand};
use riverlock_recovery::replay;

use crate::{
    options::{moment::Moment, operator::By},
    terminal::out::Output,
};

use super::by::Reason;

/// What is replayed, and whether it is done.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ReplayOptions {
    /// Instead of replaying
    #[command(subcommand)]
    pub command: Option<ReplayCommand>,
    /// What is replayed
    #[command(flatten)]
    pub selection: SelectionOptions,
    /// The plan of an earlier dry run, by the hash that it printed
    #[arg(long, value_name = "PLAN-HASH", conflicts_with = "selection")]
    pub plan: Option<String>,
    /// Do it: exactly what the plan says. Said again, it goes on where it was stopped or killed. Without this it is only said
    /// what would change, and kept as a plan
    #[arg(long, requires = "plan")]
    pub apply: bool,
    /// Records per second at most; it goes slower by itself when live traffic falls behind
    #[arg(long, default_value_t = replay::RATE_DEFAULT)]
    pub rate: NonZeroU32,
    /// How many orders and messages are listed; all are counted
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    pub list: usize,
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

/// Everything that all of these allow.
#[derive(Debug, Args)]
#[group(id = "selection", multiple = true)]
pub struct SelectionOptions {
    /// Everything that the consumers have read
    #[arg(long, conflicts_with_all = ["topic", "partition", "offsets", "since", "until", "order", "event"])]
    pub all: bool,
    /// Records of this topic, or event type; may be given again
    #[arg(long)]
    pub topic: Vec<String>,
    /// Records of the partition with this number; may be given again
    #[arg(long)]
    pub partition: Vec<i32>,
    /// Records from the first offset up to, not including, the second, for example 100..200
    #[arg(long, value_parser = offsets, value_name = "FIRST..END", requires_all = ["topic", "partition"])]
    pub offsets: Option<Offsets>,
    /// Records that Kafka took at this time or later: 2026-01-31T08:00:00Z, or 24h for 24 hours ago
    #[arg(long, value_name = "TIME")]
    pub since: Option<Moment>,
    /// Records that Kafka took before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<Moment>,
    /// Records about this order; may be given again
    #[arg(long, value_name = "ORDER-ID")]
    pub order: Vec<String>,
    /// Records of this event; may be given again
    #[arg(long, value_name = "EVENT-ID")]
    pub event: Vec<String>,
}

/// Besides replaying.
#[derive(Debug, Subcommand)]
pub enum ReplayCommand {
    /// List plans, and how far they were done
    List {
        /// How many at most, the newest first
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// Go on after this plan, as the page before says
        #[arg(long, value_name = "CURSOR")]
        after: Option<String>,
        /// How to print them
        #[command(flatten)]
        output: Output,
    },
}

/// Offsets `[first, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets(pub i64, pub i64);

fn offsets(text: &str) -> Result<Offsets, String> {
    let parse = |text: &str| text.trim().parse::<i64>().map_err(|_| format!("`{text}` is no offset"));
    let (first, end) = text.split_once("..").ok_or("expected FIRST..END, for example 100..200")?;
    Ok(Offsets(parse(first)?, parse(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_and_nonsense_is_refused() {
        assert_eq!(offsets("5..9"), Ok(Offsets(5, 9)));
        assert!(offsets("5-9").is_err() && offsets("a..9").is_err());
    }
}
