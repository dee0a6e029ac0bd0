//! Arguments of `riverlock outbox`.

use clap::{Args, Subcommand};
use riverlock_schemas::kafka::record::Position;

use crate::{
    options::{change::ChangeOptions, position::position},
    terminal::out::Output,
};

/// The subcommands of `riverlock outbox`.
#[derive(Debug, Subcommand)]
pub enum OutboxCommand {
    /// List messages that are not published, and dead letters that Kafka rejects
    #[command(after_help = "Examples:
  riverlock outbox list
  riverlock outbox list --parked --json")]
    List(ListOptions),
    /// Publish parked messages again
    ///
    /// Dry run unless --apply is given. Messages of the same order that wait behind a parked one are published with it.
    #[command(after_help = "Examples:
  riverlock outbox retry 42
  riverlock outbox retry --all-parked --apply --reason 'raised max.message.bytes'")]
    Retry(RetryOptions),
}

/// Which messages are listed.
#[derive(Debug, Args)]
pub struct ListOptions {
    /// Only parked messages: those that Kafka rejects permanently, and those that wait behind them
    #[arg(long)]
    pub parked: bool,
    /// Continue after this message or dead letter; the previous page prints the cursor
    #[arg(long, value_name = "CURSOR", value_parser = selector)]
    pub after: Option<ItemSelector>,
    /// Maximum number of messages and dead letters
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub limit: i64,
    /// The output format
    #[command(flatten)]
    pub output: Output,
}

/// Which messages are published again, by whom and why.
#[derive(Debug, Args)]
pub struct RetryOptions {
    /// Numbers of messages, or dead letters as topic[partition]@offset
    #[arg(value_name = "ID", value_parser = selector, required_unless_present = "all_parked", conflicts_with = "all_parked")]
    pub ids: Vec<ItemSelector>,
    /// All parked messages and dead letters
    #[arg(long)]
    pub all_parked: bool,
    /// Whether, by whom and why
    #[command(flatten)]
    pub change: ChangeOptions,
}

/// The name of a message or dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemSelector {
    /// A message by its number.
    Message(i64),
    /// A dead letter by the position of its record.
    DeadLetter(Position),
}

impl std::fmt::Display for ItemSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Message(id) => write!(f, "{id}"),
            Self::DeadLetter(position) => write!(f, "{position}"),
        }
    }
}

/// Parses a name as it is printed.
pub(crate) fn selector(text: &str) -> Result<ItemSelector, &'static str> {
    if let Ok(id) = text.parse() {
        return Ok(ItemSelector::Message(id));
    }
    position(text).map(ItemSelector::DeadLetter).map_err(|_| "expected a message's number, or topic[partition]@offset")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_a_message_or_a_dead_letter() {
        let position = Position { topic: "riverlock.raw.other".to_owned(), partition: 2, offset: 17 };
        for name in [ItemSelector::Message(42), ItemSelector::DeadLetter(position)] {
            assert_eq!(selector(&name.to_string()), Ok(name));
        }
        assert!(selector("order 42").is_err());
    }
}
