//! Dead letters: records that could not take effect, kept as they were until somebody redrives or discards them.
//!
//! A letter's state says what became of it (`open`, `redriven`, `discarded`); the audit's row says which outcome its record
//! has. Redriving gives the record to its projection again, in one transaction per letter: effect, outcome, state, and a line
//! of history that says who did it and why. So a run may be killed anywhere, run twice, and run beside live traffic.
//!
//! Deliberately absent: any deletion. History only grows.

mod discard;
mod redrive;
mod view;
mod watch;

use std::fmt;

use riverlock_schemas::record::Position;

pub use discard::discard;
pub use redrive::redrive;
pub use view::{ActionView, Body, Cursor, Filter, LetterView, body, count, find, history, list, next_page, started};
pub use watch::run as watch;
pub(crate) use watch::show;

use riverlock_ledger::store::Outcome;

/// How often a letter may be redriven in vain before it is passed over: what fails this often will fail again, until
/// somebody has looked.
pub const REDRIVES_MAX: i32 = 3;

/// Longest name or explanation that is kept, in characters.
const TEXT_CHARS_MAX: usize = 1_000;

/// Where a letter's record lies, with the topic's number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterPosition {
    /// The topic's number.
    pub topic_id: i16,
    /// Topic, partition and offset.
    pub position: Position,
}

/// What became of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LetterState {
    /// It waits for somebody.
    Open,
    /// It has had its effect after all, or was found to need none.
    Redriven,
    /// It was given up.
    Discarded,
}

impl LetterState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Open, Self::Redriven, Self::Discarded];

    /// As in the database, labels and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Redriven => "redriven",
            Self::Discarded => "discarded",
        }
    }
}

/// Whether something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Only tell what would happen: everything is done, and undone.
    Dry,
    /// Do it.
    Apply,
}

/// Who wants something done with letters, why, and how far it goes.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who. Kept for good.
    pub by: String,
    /// Why. Kept for good.
    pub why: String,
    /// Whether it happens.
    pub run: Run,
    /// Also letters that were discarded: somebody named them.
    pub discarded_too: bool,
    /// Also letters that were redriven in vain [`REDRIVES_MAX`] times.
    pub looping_too: bool,
}

/// Why nothing was done with a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// There is no such letter, or the audit has no row of its record.
    Unknown,
    /// It was redriven before.
    Redriven,
    /// It was discarded before.
    Discarded,
    /// It was redriven in vain this often.
    Looping(i32),
    /// Letter and audit contradict each other: somebody changed one of them.
    Contradicted(&'static str),
    /// No consumer reads its topic.
    NoConsumer,
    /// Live traffic wrote the same rows again and again.
    Busy,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => write!(f, "there is no such letter, or the audit has no row of its record"),
            Self::Redriven => write!(f, "it is redriven already"),
            Self::Discarded => write!(f, "it is discarded; naming it redrives it all the same"),
            Self::Looping(times) => {
                write!(f, "it was redriven in vain {times} times; --force redrives it all the same")
            }
            Self::Contradicted(what) => write!(f, "{what}; nothing is done with it"),
            Self::NoConsumer => {
                write!(f, "no consumer reads its topic in this configuration (kafka.topic_prefix, kafka.routed_types)")
            }
            Self::Busy => write!(f, "live traffic changed the same rows again and again; try it later"),
        }
    }
}

/// What came of redriving a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedriveResult {
    /// Its record has another outcome now.
    Settled {
        /// The outcome.
        outcome: Outcome,
        /// Why, for what is ignored.
        reason: Option<&'static str>,
    },
    /// It could not take effect again.
    Dead {
        /// A short, stable name.
        reason: String,
        /// What exactly is wrong.
        detail: String,
        /// How often it was tried, the consumer's own try included.
        attempts: i32,
    },
    /// Nothing was done.
    Skipped(SkipReason),
}

/// A text that the database takes, and that a terminal can show.
fn clean(text: &str) -> String {
    let clean = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(TEXT_CHARS_MAX).map(clean).collect()
}
