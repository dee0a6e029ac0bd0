//! `riverlock invoices` on the command line.

use std::{path::PathBuf, str::FromStr, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand, ValueEnum};
use riverlock_invoice_fetcher::queue::{missing::MissingPosition, view::ListPosition};
use riverlock_schemas::{FileId, Mode};

use crate::{
    options::{
        mode::ModeOption,
        moment::Moment,
        operator::{By, Reason},
    },
    terminal::out::Output,
};

/// What is recorded as the reason of `verify --requeue` when none is given.
pub const REQUEUE_REASON: &str = "the archive does not have it as it was stored";

/// What to do with documents.
#[derive(Debug, Subcommand)]
pub enum InvoicesCommand {
    /// List documents, the oldest first
    List(ListOptions),
    /// Show a document: where its download stands, and who had it tried again
    Show {
        /// Digital River's id of the file
        #[arg(value_parser = file_id)]
        file_id: FileId,
        /// How to print it
        #[command(flatten)]
        output: Output,
    },
    /// Write a stored document into a file, once its hash is that of the day it was stored
    Fetch(FetchOptions),
    /// Open a copy of a stored document in the desktop's viewer, or say where the copy is
    Open {
        /// Digital River's id of the file
        #[arg(value_parser = file_id)]
        file_id: FileId,
        /// How to print where the copy is
        #[command(flatten)]
        output: Output,
    },
    /// Have documents tried again at once, with a new count of attempts and a new age; only tells which, without --apply
    Retry(RetryOptions),
    /// Compare every stored document with the archive: is it there, with the size and the hash of the day it was stored
    Verify(VerifyOptions),
    /// Queue documents whose events an earlier version ignored because their mode had no account; only tells how many, without
    /// --apply
    QueueIgnored(QueueIgnoredOptions),
    /// Make a link that a customer may open
    Link {
        /// Digital River's id of the file
        #[arg(value_parser = file_id)]
        file_id: FileId,
        /// How long it works, for example 48h or 7d
        #[arg(long, default_value = "7d", value_parser = humantime::parse_duration)]
        expires: Duration,
        /// How to print it
        #[command(flatten)]
        output: Output,
    },
}

/// Which documents are meant.
#[derive(Clone, Debug, Args)]
pub struct FilterOptions {
    /// Those of this order
    #[arg(long)]
    pub order: Option<String>,
    /// Those of this mode
    #[arg(long)]
    pub mode: Option<ModeOption>,
    /// Those whose last attempt failed with this error, for example not_found
    #[arg(long)]
    pub error: Option<String>,
    /// Those that were queued then or later: a time such as 2026-01-31T09:00:00Z, or how long ago, such as 2h
    #[arg(long, value_name = "TIME")]
    pub since: Option<Moment>,
    /// Those that were queued before then
    #[arg(long, value_name = "TIME")]
    pub until: Option<Moment>,
}

/// What to list.
#[derive(Debug, Args)]
pub struct ListOptions {
    /// Those in this state
    #[arg(long)]
    pub state: Option<State>,
    /// Which documents
    #[command(flatten)]
    pub filter: FilterOptions,
    /// Those that wait until an account for their mode is configured
    #[arg(long, conflicts_with_all = ["state", "mode", "missing"])]
    pub waiting_account: bool,
    /// Instead of documents, complete orders that should have an invoice by now and have none
    #[arg(long, conflicts_with_all = ["state", "order", "mode", "error", "since", "until"])]
    pub missing: bool,
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub limit: i64,
    /// Go on after this document or order, as the page before says
    #[arg(long, value_name = "CURSOR")]
    pub after: Option<String>,
    /// How to print them
    #[command(flatten)]
    pub output: Output,
}

/// Where a document is written to.
#[derive(Debug, Args)]
pub struct FetchOptions {
    /// Digital River's id of the file
    #[arg(value_parser = file_id)]
    pub file_id: FileId,
    /// Where to; `-` is standard output [default: <file id>.pdf]
    #[arg(long = "output", short, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Write over a file that is there
    #[arg(long)]
    pub force: bool,
    /// How to print what was written
    #[command(flatten)]
    pub output: Output,
}

/// What to try again.
#[derive(Debug, Args)]
pub struct RetryOptions {
    /// This document; without one, those that the filters mean
    #[arg(value_parser = file_id,
          required_unless_present_any = ["state", "order", "mode", "error", "since", "until"])]
    pub file_id: Option<FileId>,
    /// Those in this state; what is stored is never tried again (see `verify --requeue` for what the archive has lost)
    #[arg(long)]
    pub state: Option<RetryState>,
    /// Which documents
    #[command(flatten)]
    pub filter: FilterOptions,
    /// Why it is done
    #[command(flatten)]
    pub reason: Reason,
    /// Who does it
    #[command(flatten)]
    pub by: By,
    /// How many at most
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub limit: i64,
    /// Do it; without this it is only said what would be done
    #[arg(long)]
    pub apply: bool,
    /// How to print it
    #[command(flatten)]
    pub output: Output,
}

/// What to compare with the archive, and what to do about what is wrong.
#[derive(Debug, Args)]
pub struct VerifyOptions {
    /// Only this document
    #[arg(value_parser = file_id, conflicts_with = "after")]
    pub file_id: Option<FileId>,
    /// Those of this order
    #[arg(long)]
    pub order: Option<String>,
    /// Those of this mode
    #[arg(long)]
    pub mode: Option<ModeOption>,
    /// Only look whether documents are there and have the right size, without reading them
    #[arg(long)]
    pub size_only: bool,
    /// How many at most [default: all]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Go on after this document, as the look before says
    #[arg(long, value_name = "FILE-ID", value_parser = file_id)]
    pub after: Option<FileId>,
    /// Fetch what is lost or changed again; only tells which, without --apply
    #[arg(long)]
    pub requeue: bool,
    /// Do it; without this it is only said what would be done
    #[arg(long, requires = "requeue")]
    pub apply: bool,
    /// Why it is done; recorded
    #[arg(long, value_name = "TEXT", default_value = REQUEUE_REASON)]
    pub reason: String,
    /// Who does it
    #[command(flatten)]
    pub by: By,
    /// How to print it: as JSON, one finding a line and the totals on the last
    #[command(flatten)]
    pub output: Output,
}

/// Whether ignored documents are queued, by whom and why.
#[derive(Debug, Args)]
pub struct QueueIgnoredOptions {
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

/// A document's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum State {
    /// Is fetched, or will be
    Due,
    /// Is in the archive
    Stored,
    /// Is given up, with a reason
    Discarded,
}

impl State {
    /// As in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Stored => "stored",
            Self::Discarded => "discarded",
        }
    }
}

/// The state of a document that can be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RetryState {
    /// Is fetched, or will be
    Due,
    /// Is given up, with a reason
    Discarded,
}

impl From<RetryState> for State {
    fn from(state: RetryState) -> Self {
        match state {
            RetryState::Due => Self::Due,
            RetryState::Discarded => Self::Discarded,
        }
    }
}

/// A document's place in a list: when it was queued, and its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(pub ListPosition);

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", moment(self.0.queued_at), self.0.file_id)
    }
}

impl FromStr for Cursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let position = || {
            let (queued_at, file_id) = text.split_once('/')?;
            let queued_at = DateTime::parse_from_rfc3339(queued_at).ok()?.to_utc();
            Some(Self(ListPosition { queued_at, file_id: FileId::parse(file_id).ok()? }))
        };
        position().ok_or(WRONG_CURSOR)
    }
}

/// An order's place in the list of those that lack an invoice: since when it is complete, its mode, its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingCursor(pub MissingPosition);

impl std::fmt::Display for MissingCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let MissingPosition { complete_at, order_id, mode } = &self.0;
        write!(f, "{}/{mode}/{order_id}", moment(*complete_at))
    }
}

impl FromStr for MissingCursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let position = || {
            let mut parts = text.splitn(3, '/');
            let complete_at = DateTime::parse_from_rfc3339(parts.next()?).ok()?.to_utc();
            let mode = parts.next()?;
            let mode = [Mode::Live, Mode::Test].into_iter().find(|known| known.as_str() == mode)?;
            Some(Self(MissingPosition { complete_at, order_id: parts.next()?.to_owned(), mode }))
        };
        position().ok_or(WRONG_CURSOR)
    }
}

const WRONG_CURSOR: &str = "expected what the page before says after --after";

fn moment(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn file_id(text: &str) -> Result<FileId, String> {
    FileId::parse(text)
        .map_err(|error| format!("{error}; expected a file id such as 6e5bf525-3907-40c5-86a9-f14ce4f33f35"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_the_place_that_it_was() {
        let time = DateTime::from_timestamp_micros(1_767_225_600_123_456).unwrap();
        let file_id = FileId::parse("6e5bf525-3907-40c5-86a9-f14ce4f33f35").unwrap();
        let cursor = Cursor(ListPosition { queued_at: time, file_id });
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for order_id in ["204440790336", "a/b '"] {
            let order_id = order_id.to_owned();
            let cursor = MissingCursor(MissingPosition { complete_at: time, order_id, mode: Mode::Live });
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for text in ["", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z/x", "yesterday/live/a"] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
            assert!(text.parse::<MissingCursor>().is_err(), "{text}");
        }
    }
}
