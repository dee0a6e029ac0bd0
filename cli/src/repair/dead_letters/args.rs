//! Arguments of `riverlock dead-letters`.

use clap::{Args, Subcommand, ValueEnum};
use riverlock_schemas::kafka::record::Position;

use crate::{
    options::{
        moment::Moment,
        operator::{Operator, Reason},
        position::position,
    },
    terminal::out::Output,
};

/// The subcommands of `riverlock dead-letters`.
#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// List dead letters, oldest first
    #[command(after_help = "Examples:
  riverlock dead-letters list
  riverlock dead-letters list --state all --error database --since 24h")]
    List(ListOptions),
    /// Show dead letters with their errors and the actions taken
    #[command(after_help = "Examples:
  riverlock dead-letters show 5d2c6a5e-2b40-4c1f-9a55-3f1f6a7f2c11
  riverlock dead-letters show 'riverlock.raw.orders[2]@31' --payload")]
    Show {
        /// Dead letters: topic[partition]@offset, or the event's id
        #[arg(required = true, value_name = "LETTER", value_parser = selector)]
        letters: Vec<LetterSelector>,
        /// Also print the body, which may contain personal data
        #[arg(long)]
        payload: bool,
        /// The output format
        #[command(flatten)]
        output: Output,
    },
    /// Process dead letters again, one transaction each
    ///
    /// Dry run unless --apply is given: each transaction is executed and rolled back. Remove the cause first. A redrive
    /// that was interrupted can be run again.
    #[command(after_help = "Examples:
  riverlock dead-letters redrive --error database
  riverlock dead-letters redrive --error database --apply --reason 'fixed in 0.1.1'")]
    Redrive(RedriveOptions),
    /// Discard dead letters permanently
    ///
    /// Dry run unless --apply is given. The audit still counts the records as dead.
    #[command(after_help = "Examples:
  riverlock dead-letters discard 5d2c6a5e-2c01-4c1f-9a55-3f1f6a7f2c13
  riverlock dead-letters discard 5d2c6a5e-2c01-4c1f-9a55-3f1f6a7f2c13 --apply --reason 'a test order'")]
    Discard(DiscardOptions),
}

/// Filters for dead letters.
#[derive(Clone, Debug, Args)]
pub struct FilterOptions {
    /// Only dead letters that failed with this error, such as shape
    #[arg(long)]
    pub error: Option<String>,
    /// Only records of this topic
    #[arg(long)]
    pub topic: Option<String>,
    /// Only events of this type, such as order.accepted
    #[arg(long)]
    pub event_type: Option<String>,
    /// Only events of this order
    #[arg(long)]
    pub order: Option<String>,
    /// Only dead letters that failed at or after this time, such as 2026-01-31T09:00:00Z, or this long ago, such as 2h
    #[arg(long, value_name = "TIME")]
    pub since: Option<Moment>,
    /// Only dead letters that failed before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<Moment>,
}

/// Which dead letters are listed.
#[derive(Debug, Args)]
pub struct ListOptions {
    /// The filters
    #[command(flatten)]
    pub filter: FilterOptions,
    /// Only dead letters in this state
    #[arg(long, value_enum, default_value_t = StateOption::Open)]
    pub state: StateOption,
    /// Maximum number of dead letters
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub limit: i64,
    /// Continue after this dead letter; the previous page prints the cursor
    #[arg(long, value_name = "CURSOR", value_parser = position)]
    pub after: Option<Position>,
    /// The output format
    #[command(flatten)]
    pub output: Output,
}

/// Which dead letters are changed, by whom and why.
#[derive(Debug, Args)]
pub struct ActionOptions {
    /// Dead letters: topic[partition]@offset, or the event's id; without one, the open dead letters that match the filters
    #[arg(value_name = "LETTER", value_parser = selector,
          conflicts_with_all = ["error", "topic", "event_type", "order", "since", "until"],
          required_unless_present_any = ["error", "topic", "event_type", "order", "since", "until", "all"])]
    pub letters: Vec<LetterSelector>,
    /// The filters
    #[command(flatten)]
    pub filter: FilterOptions,
    /// All open dead letters
    #[arg(long, conflicts_with = "letters")]
    pub all: bool,
    /// The reason
    #[command(flatten)]
    pub reason: Reason,
    /// The operator
    #[command(flatten)]
    pub operator: Operator,
    /// Maximum number of dead letters
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub limit: u64,
    /// Maximum number of dead letters per second
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rate: u32,
    /// Apply the changes (default: dry run)
    #[arg(long)]
    pub apply: bool,
    /// The output format
    #[command(flatten)]
    pub output: Output,
}

/// Which dead letters are redriven.
#[derive(Debug, Args)]
pub struct RedriveOptions {
    /// The dead letters, the operator and the reason
    #[command(flatten)]
    pub action: ActionOptions,
    /// Include dead letters that were redriven too often without success
    #[arg(long)]
    pub force: bool,
}

/// Which dead letters are discarded.
#[derive(Debug, Args)]
pub struct DiscardOptions {
    /// The dead letters, the operator and the reason
    #[command(flatten)]
    pub action: ActionOptions,
}

/// A dead letter's state as a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StateOption {
    /// Neither redriven nor discarded
    Open,
    /// Processed after all
    Redriven,
    /// Discarded permanently
    Discarded,
    /// Every state
    All,
}

/// The name of one or several dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LetterSelector {
    /// The position of its record.
    Position(Position),
    /// The id of its event, which several records may have.
    Event(String),
}

impl std::fmt::Display for LetterSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Position(position) => write!(f, "{position}"),
            Self::Event(id) => write!(f, "{id}"),
        }
    }
}

/// A text in the form of a position is one; any other text is an event's id.
fn selector(text: &str) -> Result<LetterSelector, std::convert::Infallible> {
    Ok(position(text).map_or_else(|_| LetterSelector::Event(text.to_owned()), LetterSelector::Position))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_is_named_by_its_printed_position_or_by_its_event() {
        let position = Position { topic: "riverlock.raw.orders".to_owned(), partition: 11, offset: 4_294_967_296 };
        assert_eq!(selector(&position.to_string()), Ok(LetterSelector::Position(position)));
        for id in ["6e5bf525-3907", "a[1]", "x[one]@2", "unreadable:riverlock.raw.other[0]@x"] {
            assert_eq!(selector(id), Ok(LetterSelector::Event(id.to_owned())));
        }
    }
}
