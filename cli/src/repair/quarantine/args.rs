//! Arguments of `riverlock quarantine`.

use std::{fmt, str::FromStr};

use clap::{Args, Subcommand};

use crate::{options::change::ChangeOptions, terminal::out::Output};

/// The subcommands of `riverlock quarantine`.
#[derive(Debug, Subcommand)]
pub enum QuarantineCommand {
    /// List quarantined events, and whether their signatures verify now
    #[command(after_help = "Examples:
  riverlock quarantine list
  riverlock quarantine list --limit 1000 --json")]
    List(ListOptions),
    /// Release quarantined events whose signatures verify now
    ///
    /// Dry run unless --apply is given. A released event is written to the topic of its type, from which the consumers read
    /// it. Events that were already processed are duplicates and have no effect.
    #[command(after_help = "Examples:
  riverlock quarantine release --all
  riverlock quarantine release --all --apply --reason 'the new secret was missing'")]
    Release(ReleaseOptions),
}

/// Which quarantined events are listed.
#[derive(Debug, Args)]
pub struct ListOptions {
    /// Maximum number of events
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub limit: i64,
    /// Continue after this event; the previous page prints the cursor
    #[arg(long, value_name = "CURSOR")]
    pub after: Option<Cursor>,
    /// The output format
    #[command(flatten)]
    pub output: Output,
}

/// Which events are released, by whom and why.
#[derive(Debug, Args)]
pub struct ReleaseOptions {
    /// All events whose signatures verify
    #[arg(long, required_unless_present = "id", conflicts_with = "id")]
    pub all: bool,
    /// The event with this id; can be repeated
    #[arg(long)]
    pub id: Vec<String>,
    /// Include events with a valid signature but without the right password or token, which cannot be checked again
    #[arg(long)]
    pub signature_only: bool,
    /// Include events whose signature is valid but too old or too new, because a clock was wrong. Such a request could also
    /// have been recorded and sent again by someone else
    #[arg(long)]
    pub ignore_age: bool,
    /// Whether, by whom and why
    #[command(flatten)]
    pub change: ChangeOptions,
}

/// A record's position in the quarantine: `partition@offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// The partition.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.partition, self.offset)
    }
}

impl FromStr for Cursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('@').and_then(|(partition, offset)| {
            let (partition, offset): (i32, i64) = (partition.parse().ok()?, offset.parse().ok()?);
            (partition >= 0 && offset >= 0).then_some(Self { partition, offset })
        });
        parts.ok_or_else(|| "expected partition@offset, the cursor that the previous page printed".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_cursor_is_parsed_to_the_same_position() {
        let cursor = Cursor { partition: 2, offset: 17 };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for wrong in ["", "2", "@", "2@", "-1@3", "1@-3", "a@b", "1@2@3"] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
        }
    }
}
