//! Arguments of `riverlock replay`.

use std::num::NonZeroU32;

use clap::{Args, Subcommand};
use riverlock_recovery::replay;

use crate::{
    options::{
        moment::Moment,
        operator::{Operator, Reason},
    },
    terminal::out::Output,
};

/// What is replayed, and whether changes are applied.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ReplayOptions {
    /// A subcommand instead of a replay
    #[command(subcommand)]
    pub command: Option<ReplayCommand>,
    /// The records
    #[command(flatten)]
    pub selection: SelectionOptions,
    /// The plan of an earlier dry run, by the hash that it printed
    #[arg(long, value_name = "PLAN-HASH", conflicts_with = "selection")]
    pub plan: Option<String>,
    /// Apply the plan; run again to continue after an interruption (default: dry run, which stores a plan)
    #[arg(long, requires = "plan")]
    pub apply: bool,
    /// Maximum number of records per second; a replay also slows down when the live consumers fall behind
    #[arg(long, default_value_t = replay::RATE_DEFAULT)]
    pub rate: NonZeroU32,
    /// Maximum number of orders and of messages that are listed; all are counted
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    pub list: usize,
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

/// Which records are replayed; a record must match all of these.
#[derive(Debug, Args)]
#[group(id = "selection", multiple = true)]
pub struct SelectionOptions {
    /// All records that the consumers have read
    #[arg(long, conflicts_with_all = ["topic", "event_type", "partition", "offsets", "since", "until", "order", "event"])]
    pub all: bool,
    /// Only records of this topic; can be repeated
    #[arg(long)]
    pub topic: Vec<String>,
    /// Only events of this type, such as order.accepted; can be repeated
    #[arg(long = "type", value_name = "EVENT-TYPE")]
    pub event_type: Vec<String>,
    /// Only records of the partition with this number; can be repeated
    #[arg(long)]
    pub partition: Vec<i32>,
    /// Only records from the first offset up to, not including, the second, such as 100..200
    #[arg(long, value_parser = offsets, value_name = "FIRST..END", requires_all = ["topic", "partition"])]
    pub offsets: Option<OffsetsOption>,
    /// Only records that Kafka stored at or after this time, such as 2026-01-31T08:00:00Z, or this long ago, such as 24h
    #[arg(long, value_name = "TIME")]
    pub since: Option<Moment>,
    /// Only records that Kafka stored before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<Moment>,
    /// Only records of this order; can be repeated
    #[arg(long, value_name = "ORDER-ID")]
    pub order: Vec<String>,
    /// Only records of this event; can be repeated
    #[arg(long, value_name = "EVENT-ID")]
    pub event: Vec<String>,
}

/// The subcommands of `riverlock replay`.
#[derive(Debug, Subcommand)]
pub enum ReplayCommand {
    /// List plans and their progress, newest first
    #[command(after_help = "Examples:
  riverlock replay list --limit 5")]
    List {
        /// Maximum number of plans
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// Continue after this plan; the previous page prints the cursor
        #[arg(long, value_name = "CURSOR")]
        after: Option<String>,
        /// The output format
        #[command(flatten)]
        output: Output,
    },
}

/// Offsets `[first, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetsOption(pub i64, pub i64);

fn offsets(text: &str) -> Result<OffsetsOption, String> {
    let parse = |text: &str| text.trim().parse::<i64>().map_err(|_| format!("`{text}` is not an offset"));
    let (first, end) = text.split_once("..").ok_or("expected FIRST..END, for example 100..200")?;
    Ok(OffsetsOption(parse(first)?, parse(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_parsed_and_other_texts_rejected() {
        assert_eq!(offsets("5..9"), Ok(OffsetsOption(5, 9)));
        assert!(offsets("5-9").is_err() && offsets("a..9").is_err());
    }
}
