//! `riverlock invoices` on the command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use riverlock_schemas::FileId;

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
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write a stored document into a file, once its hash is that of the day it was stored
    Fetch {
        /// Digital River's id of the file
        #[arg(value_parser = file_id)]
        file_id: FileId,
        /// Where to; `-` is standard output [default: <file id>.pdf]
        #[arg(long, short)]
        output: Option<PathBuf>,
        /// Write over a file that is there
        #[arg(long)]
        force: bool,
    },
    /// Open a copy of a stored document in the desktop's viewer, or say where the copy is
    Open {
        /// Digital River's id of the file
        #[arg(value_parser = file_id)]
        file_id: FileId,
    },
    /// Have documents tried again at once, with a new count of attempts and a new age; only tells which, without --apply
    Retry(RetryOptions),
    /// Make a link that a customer may open
    Link {
        /// Digital River's id of the file
        #[arg(value_parser = file_id)]
        file_id: FileId,
        /// How long it works, for example 48h or 7d
        #[arg(long, default_value = "7d", value_parser = humantime::parse_duration)]
        expires: Duration,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Which documents are meant.
#[derive(Clone, Debug, Args)]
pub struct FilterOptions {
    /// Those in this state
    #[arg(long)]
    pub state: Option<State>,
    /// Those of this order
    #[arg(long)]
    pub order: Option<String>,
    /// Those whose last attempt failed for this reason, for example not_found
    #[arg(long)]
    pub reason: Option<String>,
    /// Those that were queued longer ago than this, for example 2h
    #[arg(long, value_parser = humantime::parse_duration)]
    pub older: Option<Duration>,
}

/// What to list.
#[derive(Debug, Args)]
pub struct ListOptions {
    /// Which documents
    #[command(flatten)]
    pub filter: FilterOptions,
    /// Instead of documents, complete orders that should have an invoice by now and have none
    #[arg(long, conflicts_with_all = ["state", "order", "reason", "older"])]
    pub missing: bool,
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub limit: i64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What to try again.
#[derive(Debug, Args)]
pub struct RetryOptions {
    /// This document; without one, those that the filters mean
    #[arg(value_parser = file_id, required_unless_present_any = ["state", "order", "reason", "older"])]
    pub file_id: Option<FileId>,
    /// Which documents
    #[command(flatten)]
    pub filter: FilterOptions,
    /// Why; kept with the documents
    #[arg(long)]
    pub why: String,
    /// Who; kept with the documents
    #[arg(long, env = "USER")]
    pub by: String,
    /// How many at most
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub limit: i64,
    /// Do it
    #[arg(long)]
    pub apply: bool,
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

fn file_id(text: &str) -> Result<FileId, String> {
    FileId::parse(text)
        .map_err(|error| format!("{error}; expected a file id such as 6e5bf525-3907-40c5-86a9-f14ce4f33f35"))
}
