//! Compares Digital River's orders and documents with the stored ones: independent of events, and not limited to 30
//! days.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use riverlock_digital_river::{
    Client, Priority,
    lists::{self, List, OrderState, Purpose},
};
use riverlock_ledger::postgres::bounded;
use riverlock_schemas::Mode;
use serde::Serialize;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use crate::{
    error::ReconcileError,
    listing::{
        walk::{PAGES_MAX, WalkError},
        windows::{Range, windows},
    },
    report::NAMED_MAX,
    store,
};

/// Attempts to read a page that repeats an earlier one.
const REPETITIONS_MAX: u32 = 3;

/// Result of comparing orders or documents.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectsReport {
    /// Mode of the compared data.
    pub mode: Mode,
    /// `orders` or `documents`.
    pub what: &'static str,
    /// Start of the compared range.
    pub from: DateTime<Utc>,
    /// End of the compared range, exclusive.
    pub to: DateTime<Utc>,
    /// Objects listed by Digital River, counted once for each state.
    pub listed: u64,
    /// Objects that are not stored, or not in the listed state.
    pub missing: u64,
    /// The first [`NAMED_MAX`] of them.
    pub objects: Vec<MissingObject>,
}

/// An object that Digital River has and that is not stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MissingObject {
    /// Order id or file id.
    pub id: String,
    /// The order's state, or the document's purpose.
    pub kind: &'static str,
}

/// The kind of objects to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objects {
    /// Orders, in every state of [`OrderState`].
    Orders,
    /// Invoices and credit memos.
    Documents,
}

/// Compares the objects of a mode in a time range. `answer_limit` limits the wait for each answer of PostgreSQL.
///
/// # Errors
/// When a list cannot be read completely, or PostgreSQL does not answer.
pub async fn compare(
    client: &Client,
    (connection, answer_limit): (&mut PgConnection, Duration),
    (mode, what): (Mode, Objects),
    (range, window): (Range, TimeDelta),
    stop: &CancellationToken,
) -> Result<ObjectsReport, ReconcileError> {
    let lists: Vec<List> = match what {
        Objects::Orders => OrderState::ALL.map(|state| List::Orders { state }).to_vec(),
        Objects::Documents => Purpose::ALL.map(|purpose| List::Documents { purpose }).to_vec(),
    };
    let name = if what == Objects::Orders { "orders" } else { "documents" };
    let Range { from, to } = range;
    let mut report = ObjectsReport { mode, what: name, from, to, listed: 0, missing: 0, objects: Vec::new() };
    for list in lists {
        for window in windows(range, window, TimeDelta::zero()) {
            let database = (&mut *connection, answer_limit);
            compare_window(client, database, (mode, list), window.listed, stop, &mut report).await?;
        }
    }
    Ok(report)
}

async fn compare_window(
    client: &Client,
    (connection, answer_limit): (&mut PgConnection, Duration),
    (mode, list): (Mode, List),
    range: Range,
    stop: &CancellationToken,
    report: &mut ObjectsReport,
) -> Result<(), ReconcileError> {
    let (mut after, mut seen, mut repetitions): (Option<String>, HashSet<String>, u32) = (None, HashSet::new(), 0);
    loop {
        if stop.is_cancelled() {
            return Err(ReconcileError::Stopped);
        }
        let span = (range.from, range.to);
        let page = lists::list(client, mode, list, span, after.as_deref(), Priority::Foreground).await;
        let page = page.map_err(WalkError::from)?;
        let last = page.data.last().cloned();
        let repeated = last.as_ref().map_or(page.has_more, |last| seen.contains(last));
        if repeated {
            repetitions += 1;
            if repetitions >= REPETITIONS_MAX {
                return Err(WalkError::Loop(after.unwrap_or_default()).into());
            }
            continue;
        }
        repetitions = 0;
        report.listed += page.data.len() as u64;
        let known = async {
            Ok::<_, riverlock_ledger::Error>(match list {
                List::Orders { state } => store::orders_in(connection, mode, &page.data, state).await?,
                List::Documents { .. } => store::documents(connection, mode, &page.data).await?,
            })
        };
        let known = bounded(answer_limit, known).await?;
        let kind = match list {
            List::Orders { state } => state.as_str(),
            List::Documents { purpose } => purpose.as_str(),
        };
        for id in page.data.into_iter().filter(|id| !known.contains(id)) {
            report.missing += 1;
            if report.objects.len() < NAMED_MAX {
                report.objects.push(MissingObject { id, kind });
            }
        }
        let Some(last) = last.filter(|_| page.has_more) else { return Ok(()) };
        seen.insert(last.clone());
        after = Some(last);
        if seen.len() > PAGES_MAX {
            return Err(WalkError::TooMany.into());
        }
    }
}
