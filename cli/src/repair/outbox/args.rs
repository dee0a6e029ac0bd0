//! `riverlock outbox` on the command line.

use clap::{Args, Subcommand};
use riverlock_schemas::record::Position;

use crate::{
    options::operator::{By, Reason},
    terminal::out::Output,
};

/// What to do with messages that are not published.
#[derive(Debug, Subcommand)]
pub enum OutboxCommand {
    /// List messages that wait to be published, and messages and dead letters that Kafka refuses
    List(ListOptions),
    /// Publish parked messages again, with all that wait behind them; without --apply only say which
    Retry(RetryOptions),
}

/// What to list.
#[derive(Debug, Args)]
pub struct ListOptions {
    /// Only what is parked: what Kafka refuses for good, and what waits behind it
    #[arg(long)]
    pub parked: bool,
    /// Go on after this message or letter, as the page before says
    #[arg(long, value_name = "CURSOR", value_parser = named)]
    pub after: Option<Named>,
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub limit: i64,
    /// How to print them
    #[command(flatten)]
    pub output: Output,
}

/// What is published again, by whom and why.
#[derive(Debug, Args)]
pub struct RetryOptions {
    /// A message by its number, or a dead letter by topic[partition]@offset; may be given again
    #[arg(value_name = "ID", value_parser = named, required_unless_present = "all_parked", conflicts_with = "all_parked")]
    pub ids: Vec<Named>,
    /// Everything that is parked
    #[arg(long)]
    pub all_parked: bool,
    /// Why it is done
    #[command(flatten)]
    pub reason: Reason,
    /// Who does it
    #[command(flatten)]
    pub by: By,
    /// Do it; without this it is only said what would be done
    #[arg(long)]
    pub apply: bool,
    /// How to print it
    #[command(flatten)]
    pub output: Output,
}

/// Something that is published, as it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A message by its number.
    Message(i64),
    /// A dead letter by where its record lies.
    Letter(Position),
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Message(id) => write!(f, "{id}"),
            Self::Letter(position) => write!(f, "{position}"),
        }
    }
}

/// Reads a name as it is printed.
pub(crate) fn named(text: &str) -> Result<Named, &'static str> {
    if let Ok(id) = text.parse() {
        return Ok(Named::Message(id));
    }
    let position = || {
        let (place, offset) = text.rsplit_once("]@")?;
        let (topic, partition) = place.rsplit_once('[')?;
        Some(Position { topic: topic.to_owned(), partition: partition.parse().ok()?, offset: offset.parse().ok()? })
    };
    position().map(Named::Letter).ok_or("expected a message's number, or topic[partition]@offset")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_a_message_or_a_letter() {
        let position = Position { topic: "riverlock.raw.other".to_owned(), partition: 2, offset: 17 };
        for name in [Named::Message(42), Named::Letter(position)] {
            assert_eq!(named(&name.to_string()), Ok(name));
        }
        assert!(named("order 42").is_err());
    }
}
