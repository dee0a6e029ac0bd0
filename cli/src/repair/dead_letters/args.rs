//! `riverlock dead-letters` on the command line.

use clap::{Args, Subcommand, ValueEnum};
use riverlock_schemas::record::Position;

use crate::{
    options::{
        moment::Moment,
        operator::{By, Reason},
    },
    terminal::out::Output,
};

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// List letters, the oldest first
    List(ListOptions),
    /// Show letters: what is wrong with them, and what was done about them
    Show {
        /// The letter: topic[partition]@offset, or the event's id
        #[arg(required = true, value_parser = named)]
        letters: Vec<Named>,
        /// Also the body as Digital River sent it, which may tell of people
        #[arg(long)]
        payload: bool,
        /// How to print them
        #[command(flatten)]
        output: Output,
    },
    /// Give letters to their consumer again, each in a transaction of its own; without --apply only say what would happen
    Redrive(RedriveOptions),
    /// Give letters up; their records stay dead in the audit. Without --apply only say which
    Discard(DiscardOptions),
}

/// Which letters are meant.
#[derive(Clone, Debug, Args)]
pub struct FilterOptions {
    /// Those that failed with this error, for example shape
    #[arg(long)]
    pub error: Option<String>,
    /// Those whose records lie in this topic
    #[arg(long)]
    pub topic: Option<String>,
    /// Those of events of this type, for example order.accepted
    #[arg(long)]
    pub event_type: Option<String>,
    /// Those of this order
    #[arg(long)]
    pub order: Option<String>,
    /// Those that failed then or later: a time such as 2026-01-31T09:00:00Z, or how long ago, such as 2h
    #[arg(long, value_name = "TIME")]
    pub since: Option<Moment>,
    /// Those that failed before then
    #[arg(long, value_name = "TIME")]
    pub until: Option<Moment>,
}

/// What to list.
#[derive(Debug, Args)]
pub struct ListOptions {
    /// Which letters
    #[command(flatten)]
    pub filter: FilterOptions,
    /// Those in this state
    #[arg(long, value_enum, default_value_t = StateOption::Open)]
    pub state: StateOption,
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub limit: i64,
    /// Go on after this letter, as the page before says
    #[arg(long, value_name = "CURSOR", value_parser = position)]
    pub after: Option<Position>,
    /// How to print them
    #[command(flatten)]
    pub output: Output,
}

/// Which letters something is done with, by whom and why.
#[derive(Debug, Args)]
pub struct ActOptions {
    /// These letters: topic[partition]@offset, or the event's id; without one, the open letters that the filters mean
    #[arg(value_parser = named, conflicts_with_all = ["error", "topic", "event_type", "order", "since", "until"],
          required_unless_present_any = ["error", "topic", "event_type", "order", "since", "until", "all"])]
    pub letters: Vec<Named>,
    /// Which letters
    #[command(flatten)]
    pub filter: FilterOptions,
    /// Every open letter
    #[arg(long, conflicts_with = "letters")]
    pub all: bool,
    /// Why it is done
    #[command(flatten)]
    pub reason: Reason,
    /// Who does it
    #[command(flatten)]
    pub by: By,
    /// How many at most
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub limit: u64,
    /// Letters per second at most
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rate: u32,
    /// Do it; without this it is only said what would be done
    #[arg(long)]
    pub apply: bool,
    /// How to print it
    #[command(flatten)]
    pub output: Output,
}

/// What to redrive.
#[derive(Debug, Args)]
pub struct RedriveOptions {
    /// Which letters, by whom and why
    #[command(flatten)]
    pub act: ActOptions,
    /// Also letters that were redriven in vain too often
    #[arg(long)]
    pub force: bool,
}

/// What to discard.
#[derive(Debug, Args)]
pub struct DiscardOptions {
    /// Which letters, by whom and why
    #[command(flatten)]
    pub act: ActOptions,
}

/// A letter's state, for lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StateOption {
    /// Waits for somebody
    Open,
    /// Has had its effect after all, or was found to need none
    Redriven,
    /// Was given up
    Discarded,
    /// Whatever became of it
    All,
}

/// A letter, as it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// By where its record lies.
    Position(Position),
    /// By its event's id, which several records may have.
    Event(String),
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Position(position) => write!(f, "{position}"),
            Self::Event(id) => write!(f, "{id}"),
        }
    }
}

/// What has the shape of a position is one; all else is an event's id.
fn named(text: &str) -> Result<Named, std::convert::Infallible> {
    Ok(position(text).map_or_else(|_| Named::Event(text.to_owned()), Named::Position))
}

fn position(text: &str) -> Result<Position, &'static str> {
    let position = || {
        let (place, offset) = text.rsplit_once("]@")?;
        let (topic, partition) = place.rsplit_once('[')?;
        Some(Position { topic: topic.to_owned(), partition: partition.parse().ok()?, offset: offset.parse().ok()? })
    };
    position().ok_or("expected topic[partition]@offset")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_named_by_its_position_as_it_is_printed_or_by_its_event() {
        let position =
            Position { topic: "riverlock.raw.order.accepted".to_owned(), partition: 11, offset: 4_294_967_296 };
        assert_eq!(named(&position.to_string()), Ok(Named::Position(position)));
        for id in ["6e5bf525-3907", "a[1]", "x[one]@2", "unreadable:riverlock.raw.other[0]@x"] {
            assert_eq!(named(id), Ok(Named::Event(id.to_owned())));
        }
    }
}
