//! Arguments of `riverlock invoices`.

use std::{path::PathBuf, str::FromStr, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand, ValueEnum};
use riverlock_invoice_fetcher::queue::{missing::MissingPosition, view::ListPosition};
use riverlock_schemas::{FileId, Mode};

use crate::{
    options::{
        change::ChangeOptions,
        mode::ModeOption,
        moment::Moment,
        operator::{Operator, Reason},
    },
    terminal::out::Output,
};

/// The recorded reason of `verify --requeue` if none is given.
pub const REQUEUE_REASON: &str = "the archive does not have it as it was stored";

/// The subcommands of `riverlock invoices`.
#[derive(Debug, Subcommand)]
pub enum InvoicesCommand {
    /// List documents, oldest first
    #[command(after_help = "Examples:
  riverlock invoices list --state due
  riverlock invoices list --missing --json")]
    List(ListOptions),
    /// Show a document with its download attempts and retries
    #[command(after_help = "Examples:
  riverlock invoices show 6e5bf525-3907-40c5-86a9-f14ce4f33f35")]
    Show {
        /// Digital River's id of the file
        #[arg(value_parser = file_id)]
        file_id: FileId,
        /// The output format
        #[command(flatten)]
        output: Output,
    },
    /// Save a stored document to a file after verifying its SHA-256
    #[command(after_help = "Examples:
  riverlock invoices fetch 6e5bf525-3907-40c5-86a9-f14ce4f33f35 --output invoice.pdf")]
    Fetch(FetchOptions),
    /// Open a copy of a stored document in the desktop's viewer
    ///
    /// Prints the path of the copy where no viewer can be started.
    #[command(after_help = "Examples:
  riverlock invoices open 6e5bf525-3907-40c5-86a9-f14ce4f33f35")]
    Open {
        /// Digital River's id of the file
        #[arg(value_parser = file_id)]
        file_id: FileId,
        /// The output format
        #[command(flatten)]
        output: Output,
    },
    /// Retry downloads now, resetting attempts and age
    ///
    /// Dry run unless --apply is given.
    #[command(after_help = "Examples:
  riverlock invoices retry --error not_found
  riverlock invoices retry 6e5bf525-3907-40c5-86a9-f14ce4f33f35 --apply --reason 'the key was wrong'")]
    Retry(RetryOptions),
    /// Compare every stored document with the archive
    ///
    /// Checks that the archive has each document with the size and SHA-256 that were recorded when it was stored.
    #[command(after_help = "Examples:
  riverlock invoices verify --size-only
  riverlock invoices verify --requeue --apply --reason 'the bucket was restored'")]
    Verify(VerifyOptions),
    /// Queue documents that were ignored because their mode had no account
    ///
    /// Dry run unless --apply is given.
    #[command(after_help = "Examples:
  riverlock invoices queue-ignored
  riverlock invoices queue-ignored --apply --reason 'live account configured'")]
    QueueIgnored(ChangeOptions),
    /// Create a link with which a customer can open a document
    #[command(after_help = "Examples:
  riverlock invoices link 6e5bf525-3907-40c5-86a9-f14ce4f33f35 --expires 48h")]
    Link {
        /// Digital River's id of the file
        #[arg(value_parser = file_id)]
        file_id: FileId,
        /// How long the link works, such as 48h or 7d; at most a year
        #[arg(long, default_value = "7d", value_parser = humantime::parse_duration)]
        expires: Duration,
        /// The output format
        #[command(flatten)]
        output: Output,
    },
}

/// Filters for documents.
#[derive(Clone, Debug, Args)]
pub struct FilterOptions {
    /// Only documents of this order
    #[arg(long)]
    pub order: Option<String>,
    /// Only documents of this mode
    #[arg(long)]
    pub mode: Option<ModeOption>,
    /// Only documents whose last attempt failed with this error, such as not_found
    #[arg(long)]
    pub error: Option<String>,
    /// Only documents queued at or after this time, such as 2026-01-31T09:00:00Z, or this long ago, such as 2h
    #[arg(long, value_name = "TIME")]
    pub since: Option<Moment>,
    /// Only documents queued before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<Moment>,
}

/// Which documents are listed.
#[derive(Debug, Args)]
pub struct ListOptions {
    /// Only documents in this state
    #[arg(long)]
    pub state: Option<DocumentState>,
    /// The filters
    #[command(flatten)]
    pub filter: FilterOptions,
    /// Only documents that wait for an account of their mode to be configured
    #[arg(long, conflicts_with_all = ["state", "mode", "missing"])]
    pub waiting_account: bool,
    /// List complete orders without an invoice instead of documents
    #[arg(long, conflicts_with_all = ["state", "order", "mode", "error", "since", "until"])]
    pub missing: bool,
    /// Maximum number of entries
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub limit: i64,
    /// Continue after this entry; the previous page prints the cursor
    #[arg(long, value_name = "CURSOR")]
    pub after: Option<String>,
    /// The output format
    #[command(flatten)]
    pub output: Output,
}

/// Where a document is saved.
#[derive(Debug, Args)]
pub struct FetchOptions {
    /// Digital River's id of the file
    #[arg(value_parser = file_id)]
    pub file_id: FileId,
    /// The file to write; `-` is standard output [default: <file id>.pdf]
    #[arg(long = "output", short, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Overwrite an existing file
    #[arg(long)]
    pub force: bool,
    /// The output format
    #[command(flatten)]
    pub output: Output,
}

/// Which downloads are retried.
#[derive(Debug, Args)]
pub struct RetryOptions {
    /// This document; without it, the documents that match the filters
    #[arg(value_parser = file_id,
          required_unless_present_any = ["state", "order", "mode", "error", "since", "until"])]
    pub file_id: Option<FileId>,
    /// Only documents in this state. Stored documents are never retried; see `verify --requeue`
    #[arg(long)]
    pub state: Option<RetryState>,
    /// The filters
    #[command(flatten)]
    pub filter: FilterOptions,
    /// The reason
    #[command(flatten)]
    pub reason: Reason,
    /// The operator
    #[command(flatten)]
    pub operator: Operator,
    /// Maximum number of documents
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub limit: i64,
    /// Apply the changes (default: dry run)
    #[arg(long)]
    pub apply: bool,
    /// The output format
    #[command(flatten)]
    pub output: Output,
}

/// Which documents are compared with the archive, and what is done about differences.
#[derive(Debug, Args)]
pub struct VerifyOptions {
    /// Only this document
    #[arg(value_parser = file_id, conflicts_with = "after")]
    pub file_id: Option<FileId>,
    /// Only documents of this order
    #[arg(long)]
    pub order: Option<String>,
    /// Only documents of this mode
    #[arg(long)]
    pub mode: Option<ModeOption>,
    /// Check existence and size only, without reading the documents
    #[arg(long)]
    pub size_only: bool,
    /// Maximum number of documents [default: all]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Continue after this document; the previous run prints it
    #[arg(long, value_name = "FILE-ID", value_parser = file_id)]
    pub after: Option<FileId>,
    /// Download lost and changed documents again; dry run unless --apply is given
    #[arg(long)]
    pub requeue: bool,
    /// Apply the changes (default: dry run)
    #[arg(long, requires = "requeue")]
    pub apply: bool,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = REQUEUE_REASON)]
    pub reason: String,
    /// The operator
    #[command(flatten)]
    pub operator: Operator,
    /// The output format; JSON has one finding per line and the totals on the last
    #[command(flatten)]
    pub output: Output,
}

/// A document's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DocumentState {
    /// Queued for download
    Due,
    /// Stored in the archive
    Stored,
    /// Discarded, with a reason
    Discarded,
}

impl DocumentState {
    /// The name in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Stored => "stored",
            Self::Discarded => "discarded",
        }
    }
}

/// A state in which a download can be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RetryState {
    /// Queued for download
    Due,
    /// Discarded, with a reason
    Discarded,
}

impl From<RetryState> for DocumentState {
    fn from(state: RetryState) -> Self {
        match state {
            RetryState::Due => Self::Due,
            RetryState::Discarded => Self::Discarded,
        }
    }
}

/// A document's position in a list: when it was queued, and its id.
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

/// An order's position in the list of orders without an invoice: when it became complete, its mode, its id.
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

const WRONG_CURSOR: &str = "expected the cursor that the previous page printed";

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
    fn a_printed_cursor_is_parsed_to_the_same_position() {
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
