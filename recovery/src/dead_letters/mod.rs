//! Dead letters: records that could not be applied, stored unchanged until an operator redrives or discards them.
//!
//! A dead letter's state is `open`, `redriven` or `discarded`; the outcome of its record is in `events`. Redriving
//! processes the record again with its projection, in one transaction per letter: effect, outcome, state, and a history
//! entry with the operator and the reason. A run can therefore be killed at any point, repeated, and run beside live
//! traffic.
//!
//! Dead letters and their history are never deleted.

mod discard;
mod redrive;
mod view;
mod watch;

use std::fmt;

use riverlock_schemas::kafka::record::Position;

pub use discard::discard;
pub use redrive::redrive;
pub use view::{ActionView, Body, Cursor, Filter, LetterView, body, count, find, history, list, next_page, started};
pub use watch::run as watch;
pub(crate) use watch::show;

use riverlock_ledger::store::Outcome;

/// Failed redrives after which a dead letter is skipped: it would most likely fail again, so an operator has to look at
/// it first.
pub const REDRIVES_MAX: i32 = 3;

/// Longest name or reason that is stored, in characters.
const TEXT_CHARS_MAX: usize = 1_000;

/// Position of a dead letter's record, with the topic's number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterPosition {
    /// Number of the topic in the table `topics`.
    pub topic_id: i16,
    /// Topic, partition and offset.
    pub position: Position,
}

/// State of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LetterState {
    /// Not processed yet.
    Open,
    /// Redriven: its record has an outcome other than `dead`.
    Redriven,
    /// Discarded by an operator.
    Discarded,
}

impl LetterState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Open, Self::Redriven, Self::Discarded];

    /// The name used in the database, in labels and in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Redriven => "redriven",
            Self::Discarded => "discarded",
        }
    }
}

/// Whether changes are committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Dry run: everything is executed and rolled back.
    Dry,
    /// Commit the changes.
    Apply,
}

/// What an operator requests to be done with dead letters.
#[derive(Clone, Debug)]
pub struct Request {
    /// The operator; stored in the history.
    pub by: String,
    /// The reason; stored in the history.
    pub why: String,
    /// Dry run or not.
    pub run: Run,
    /// Include discarded dead letters, because the operator named them.
    pub include_discarded: bool,
    /// Include dead letters whose redrive failed [`REDRIVES_MAX`] times.
    pub include_looping: bool,
}

/// Why a dead letter was skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// There is no such dead letter, or `events` has no row of its record.
    Unknown,
    /// Already redriven.
    Redriven,
    /// Discarded.
    Discarded,
    /// Its redrive failed this often.
    Looping(i32),
    /// The dead letter and its row in `events` contradict each other: one of them was changed by hand.
    Contradicted(&'static str),
    /// No consumer reads its topic.
    NoConsumer,
    /// Live traffic changed the same rows in every attempt.
    Busy,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => write!(f, "there is no such dead letter, or its record has no row in `events`"),
            Self::Redriven => write!(f, "already redriven"),
            Self::Discarded => write!(f, "discarded; redrive it by its position or event id"),
            Self::Looping(times) => {
                write!(f, "redriving failed {times} times; --force redrives it nevertheless")
            }
            Self::Contradicted(what) => write!(f, "{what}"),
            Self::NoConsumer => {
                write!(f, "no consumer reads its topic in this configuration (kafka.topic_prefix, kafka.former_types)")
            }
            Self::Busy => write!(f, "live traffic changed the same rows in every attempt; try again later"),
        }
    }
}

/// Result of redriving a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedriveResult {
    /// Its record has a new outcome.
    Settled {
        /// The new outcome.
        outcome: Outcome,
        /// Why the record is ignored, if it is.
        reason: Option<&'static str>,
    },
    /// It still could not be applied.
    Dead {
        /// Reason, a short stable name.
        reason: String,
        /// Details of the reason.
        detail: String,
        /// Attempts so far, including the consumer's own.
        attempts: i32,
    },
    /// Nothing was changed.
    Skipped(SkipReason),
}

/// Limits the length and replaces control characters, so that PostgreSQL accepts the text and a terminal can show it.
fn clean(text: &str) -> String {
    let clean = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(TEXT_CHARS_MAX).map(clean).collect()
}
