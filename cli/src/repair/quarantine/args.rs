//! `riverlock quarantine` on the command line.

use std::{fmt, str::FromStr};

use clap::{Args, Subcommand};

use crate::{
    options::operator::{By, Reason},
    terminal::out::Output,
};

/// What to do with the quarantine.
#[derive(Debug, Subcommand)]
pub enum QuarantineCommand {
    /// List events that failed authentication, and whether they verify with the secrets that are configured now
    List(ListOptions),
    /// Write events that verify to the topic of their type, where the consumers find them; without --apply only say which
    Release(ReleaseOptions),
}

/// What to list.
#[derive(Debug, Args)]
pub struct ListOptions {
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub limit: i64,
    /// Go on after this record, as the page before says
    #[arg(long, value_name = "CURSOR")]
    pub after: Option<Cursor>,
    /// How to print them
    #[command(flatten)]
    pub output: Output,
}

/// What to release, by whom and why.
#[derive(Debug, Args)]
pub struct ReleaseOptions {
    /// Every event that verifies
    #[arg(long, required_unless_present = "id", conflicts_with = "id")]
    pub all: bool,
    /// The event with this id; may be given again
    #[arg(long)]
    pub id: Vec<String>,
    /// Also events with the right signature that came without the right password or token, which cannot be checked again
    #[arg(long)]
    pub signature_only: bool,
    /// Also events whose signature is right but too old or too new, for when the clocks of ingest and of Kafka were wrong.
    /// Somebody who recorded such a request could have sent it again
    #[arg(long)]
    pub ignore_age: bool,
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

/// Where a record of the quarantine lies: `partition@offset`.
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
        parts.ok_or_else(|| "expected partition@offset, as the page before says".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written() {
        let cursor = Cursor { partition: 2, offset: 17 };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for wrong in ["", "2", "@", "2@", "-1@3", "1@-3", "a@b", "1@2@3"] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
        }
    }
}
