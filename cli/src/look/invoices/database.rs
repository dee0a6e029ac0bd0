//! Documents in the database.

use std::time::Duration;

use riverlock_invoice_fetcher::queue::view::{self, Filter, InvoiceView};
use riverlock_ledger::postgres::bounded;
use riverlock_runtime::{Clock as _, SystemClock};
use riverlock_schemas::{FileId, Mode};
use sqlx::PgConnection;

use super::args::{DocumentState, FilterOptions};
use crate::exit::Problem;

/// A connection, and the time limit of each answer.
pub(super) struct Database {
    pub(super) connection: PgConnection,
    pub(super) limit: Duration,
}

impl Database {
    /// A document that an event announced.
    pub(super) async fn document(&mut self, file_id: FileId) -> anyhow::Result<InvoiceView> {
        let found = bounded(self.limit, view::find(&mut self.connection, file_id)).await?;
        Ok(found.ok_or_else(|| Problem(format!("no event has announced a document {file_id}")))?)
    }
}

/// The filter of the options.
pub(super) fn filter(file_id: Option<FileId>, state: Option<DocumentState>, options: FilterOptions) -> Filter {
    let now = SystemClock.now();
    Filter {
        file_id,
        order_id: options.order,
        state: state.map(|state| state.as_str().to_owned()),
        reason: options.error,
        mode: options.mode.map(Mode::from),
        queued_since: options.since.map(|since| since.at(now)),
        queued_before: options.until.map(|until| until.at(now)),
    }
}
