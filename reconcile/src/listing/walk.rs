//! Reads the pages of one window, and detects lists that do not end.

use std::{collections::HashSet, time::Duration};

use riverlock_digital_river::{
    Client, Error, Priority,
    events::{self, Events, Query},
};
use riverlock_schemas::Mode;

/// Most pages of one window: a million events. Limits the memory.
pub const PAGES_MAX: usize = 10_000;

/// Attempts to read a page that repeats an earlier one.
const REPETITIONS_MAX: u32 = 3;

/// Wait before a repeated page is requested again.
const REPETITION_WAIT: Duration = Duration::from_millis(500);

/// Why a window cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// A request failed.
    #[error(transparent)]
    Request(#[from] Error),
    /// The list does not end: it repeats a page.
    #[error("Digital River's list does not end: it repeats the same page (after `{0}`)")]
    Loop(String),
    /// The window has too many pages.
    #[error("one window has more than {PAGES_MAX} pages of events; set a shorter reconcile.window")]
    TooMany,
}

/// Iterator over the pages of one window.
#[derive(Debug)]
pub struct Walk<'a> {
    client: &'a Client,
    mode: Mode,
    priority: Priority,
    query: Query,
    /// Last event of each page so far.
    seen: HashSet<String>,
    ended: bool,
}

impl<'a> Walk<'a> {
    /// Starts at the newest event of the query.
    #[must_use]
    pub fn new(client: &'a Client, mode: Mode, query: Query, priority: Priority) -> Self {
        Self { client, mode, priority, query, seen: HashSet::new(), ended: false }
    }

    /// Returns the next page; `None` after the last one.
    ///
    /// # Errors
    /// When a request fails permanently, or the list does not end.
    pub async fn next(&mut self) -> Result<Option<Events>, WalkError> {
        if self.ended {
            return Ok(None);
        }
        for _ in 0..REPETITIONS_MAX {
            let page = events::list(self.client, self.mode, &self.query, self.priority).await?;
            let last = page.data.last().map(|event| event.id.clone());
            match last {
                // An empty page with `hasMore` provides no cursor for the next page.
                None if page.has_more => {}
                Some(last) if self.seen.contains(&last) => {}
                last => {
                    self.ended = !page.has_more;
                    if let Some(last) = last {
                        self.seen.insert(last.clone());
                        self.query.starting_after = Some(last);
                    }
                    if self.seen.len() > PAGES_MAX {
                        return Err(WalkError::TooMany);
                    }
                    return Ok(Some(page));
                }
            }
            tokio::time::sleep(REPETITION_WAIT).await;
        }
        Err(WalkError::Loop(self.query.starting_after.clone().unwrap_or_default()))
    }
}
