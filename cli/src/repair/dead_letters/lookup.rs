//! Dead letters by their names or by filters.

use std::time::Duration;

use riverlock_ledger::{Error, postgres::bounded};
use riverlock_recovery::dead_letters::{self, Filter, LetterPosition, LetterView};
use riverlock_runtime::{Clock as _, SystemClock};
use sqlx::PgConnection;

use super::args::{FilterOptions, LetterSelector};

/// The filter of the options.
pub(super) fn filter(options: FilterOptions) -> Filter {
    let now = SystemClock.now();
    Filter {
        reason: options.error,
        topic: options.topic,
        event_type: options.event_type,
        order_id: options.order,
        since: options.since.map(|moment| moment.at(now)),
        until: options.until.map(|moment| moment.at(now)),
    }
}

/// A session with the database, in which every statement has a limit.
pub(super) struct Database<'a> {
    pub(super) connection: &'a mut PgConnection,
    /// How long to wait for the answer to one statement.
    pub(super) limit: Duration,
}

impl Database<'_> {
    /// The dead letters with a name.
    pub(super) async fn find(&mut self, selector: &LetterSelector) -> Result<Vec<(LetterPosition, LetterView)>, Error> {
        let (position, event) = match selector {
            LetterSelector::Position(position) => (Some(position), None),
            LetterSelector::Event(id) => (None, Some(id.as_str())),
        };
        bounded(self.limit, dead_letters::find(self.connection, position, event)).await
    }
}
