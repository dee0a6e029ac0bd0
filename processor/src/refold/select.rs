//! Selection of the orders to refold, in pages.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use riverlock_ledger::{Error, store};
use riverlock_schemas::{Mode, OrderId};
use sqlx::{Acquire as _, PgConnection};

use crate::domain::{OrderKey, Status};

/// A page of orders to recompute.
const PAGE_ORDERS: i64 = 500;
/// Rows of `orders` that are read for one page.
const PAGE_ROWS: i64 = 2_000;
/// Pages of `events` that are read for one page of orders: some 1 600 rows.
const EVENT_PAGES: i64 = 32;

/// The orders to refold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Orders with these ids, in both modes.
    Ids(Vec<OrderId>),
    /// Stored orders with these properties.
    Like {
        /// Their status.
        status: Option<Status>,
        /// Changed at this time or later.
        changed_since: Option<DateTime<Utc>>,
    },
    /// Every order that is stored or has an audited event.
    All,
}

/// A page of orders to recompute.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) keys: Vec<OrderKey>,
    /// Descriptions of rows with an invalid order id.
    pub(super) unreadable: Vec<String>,
}

/// The start of the next page.
enum Next {
    Ids(std::vec::IntoIter<OrderId>),
    /// Orders that were selected when the run began, by their number in that selection.
    Chosen {
        after: i64,
    },
    /// Orders by their first record, so that orders with neighbouring records are recomputed together.
    Events {
        page: i64,
    },
    /// Stored orders without records.
    Rows {
        after: (String, bool),
    },
    End,
}

/// Iterates over the orders of a selection, each once. Every statement reads a bounded part of a table, except for the one that
/// selects stored orders by their properties.
pub(super) struct Pages {
    next: Next,
    /// Estimated number of orders; 0 if unknown.
    pub(super) total: u64,
}

impl Pages {
    pub(super) async fn new(connection: &mut PgConnection, selection: Selection) -> Result<Self, Error> {
        Ok(match selection {
            Selection::Ids(ids) => {
                let ids = ids.into_iter().collect::<BTreeSet<_>>();
                let total = ids.len() as u64;
                Self { next: Next::Ids(ids.into_iter().collect::<Vec<_>>().into_iter()), total }
            }
            Selection::Like { status, changed_since } => {
                let total = choose(connection, status, changed_since).await?;
                Self { next: Next::Chosen { after: 0 }, total }
            }
            Selection::All => Self { next: Next::Events { page: 0 }, total: estimate(connection).await? },
        })
    }

    /// The next page, which may be empty; `None` at the end.
    pub(super) async fn next(&mut self, connection: &mut PgConnection) -> Result<Option<Page>, Error> {
        let page = match &mut self.next {
            Next::Ids(ids) => {
                let some: Vec<OrderId> = ids.take(usize::try_from(PAGE_ORDERS).unwrap_or(usize::MAX)).collect();
                if some.is_empty() { None } else { Some(by_id(connection, &some).await?) }
            }
            Next::Chosen { after } => chosen(connection, after).await?,
            Next::Events { page } => match by_first_record(connection, page).await? {
                None => {
                    self.next = Next::Rows { after: (String::new(), false) };
                    Some(Page::default())
                }
                page => page,
            },
            Next::Rows { after } => without_records(connection, after).await?,
            Next::End => None,
        };
        if page.is_none() {
            self.next = Next::End;
        }
        Ok(page)
    }
}

/// PostgreSQL's last estimate of the number of orders.
async fn estimate(connection: &mut PgConnection) -> Result<u64, Error> {
    let rows = sqlx::query_scalar!(
        r#"-- refold_estimate
           SELECT greatest(reltuples, 0)::bigint AS "rows!" FROM pg_class WHERE oid = 'orders'::regclass"#
    );
    Ok(u64::try_from(rows.fetch_one(connection).await?).unwrap_or_default())
}

/// Selects stored orders by their properties, once at the start, because refolding and live traffic change those properties.
/// Reads the whole table, so the statement has no timeout.
async fn choose(
    connection: &mut PgConnection,
    status: Option<Status>,
    changed_since: Option<DateTime<Utc>>,
) -> Result<u64, Error> {
    let mut transaction = connection.begin().await?;
    for statement in [
        "-- refold_patience\nSET LOCAL statement_timeout = 0",
        "-- refold_chosen_make
         CREATE TEMPORARY TABLE refold_chosen (
             place bigint PRIMARY KEY, order_id text COLLATE \"C\" NOT NULL, live_mode boolean NOT NULL)",
    ] {
        sqlx::query(statement).execute(&mut *transaction).await?;
    }
    // The table is temporary, so the statement cannot be checked at compile time.
    let chosen = sqlx::query(
        "-- refold_choose
         INSERT INTO refold_chosen (place, order_id, live_mode)
         SELECT row_number() OVER (ORDER BY order_id, live_mode), order_id, live_mode FROM orders
         WHERE ($1::text IS NULL OR status = $1) AND ($2::timestamptz IS NULL OR changed_at >= $2)",
    );
    let chosen = chosen.bind(status.map(Status::as_str)).bind(changed_since).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(chosen.rows_affected())
}

async fn chosen(connection: &mut PgConnection, after: &mut i64) -> Result<Option<Page>, Error> {
    let rows = sqlx::query_as::<_, (i64, String, bool)>(
        "-- refold_chosen
         SELECT place, order_id, live_mode FROM refold_chosen WHERE place > $1 ORDER BY place LIMIT $2",
    );
    let rows = rows.bind(*after).bind(PAGE_ORDERS).fetch_all(connection).await?;
    let Some((last, ..)) = rows.last() else { return Ok(None) };
    *after = *last;
    Ok(Some(page(rows.into_iter().map(|(_, order_id, live_mode)| (order_id, live_mode)))))
}

/// Converts rows to order keys. A row with an invalid order id is reported and does not stop the run.
fn page(rows: impl IntoIterator<Item = (String, bool)>) -> Page {
    let mut page = Page::default();
    for (order_id, live_mode) in rows {
        match OrderId::parse(order_id) {
            Ok(order_id) => page.keys.push(OrderKey { order_id, mode: Mode::from_live(live_mode) }),
            // The id itself is left out, because it may contain anything.
            Err(error) => page.unreadable.push(format!("a row ({}): the order id {error}", Mode::from_live(live_mode))),
        }
    }
    page
}

async fn by_id(connection: &mut PgConnection, ids: &[OrderId]) -> Result<Page, Error> {
    let rows = sqlx::query!(
        r#"-- refold_by_id
           SELECT order_id AS "order_id!", live_mode AS "live_mode!" FROM orders WHERE order_id = ANY($1::text[])
           UNION
           SELECT order_id, live_mode FROM event_records
           WHERE order_id = ANY($1::text[]) AND live_mode IS NOT NULL AND outcome_code <> 'x'
           ORDER BY 1, 2"#,
        &ids.iter().map(OrderId::as_str).collect::<Vec<_>>() as _
    );
    Ok(page(rows.fetch_all(connection).await?.into_iter().map(|row| (row.order_id, row.live_mode))))
}

/// The orders whose first record is in the next pages of `events`; `None` when there are no more pages. Records lie in the order
/// in which they were stored. A row that is changed meanwhile may move: an order is selected twice then, or not at all if
/// it has no other record; what changed the row, a redrive or another refold, has applied the event.
async fn by_first_record(connection: &mut PgConnection, page: &mut i64) -> Result<Option<Page>, Error> {
    if *page >= store::event_pages(connection).await? {
        return Ok(None);
    }
    let rows = sqlx::query!(
        r#"-- refold_by_first_record
           SELECT DISTINCT e.order_id AS "order_id!", e.live_mode AS "live_mode!" FROM event_records e
           WHERE e.row_location >= $1::text::tid AND e.row_location < $2::text::tid
             AND e.order_id IS NOT NULL AND e.live_mode IS NOT NULL AND e.outcome_code <> 'x'
             AND NOT EXISTS (
                 SELECT 1 FROM event_records f
                 WHERE f.order_id = e.order_id AND f.live_mode = e.live_mode AND f.outcome_code <> 'x'
                   AND f.row_location < $1::text::tid)
           ORDER BY 1, 2"#,
        store::first_row_of(*page),
        store::first_row_of(*page + EVENT_PAGES)
    );
    let rows = rows.fetch_all(connection).await?;
    *page += EVENT_PAGES;
    Ok(Some(self::page(rows.into_iter().map(|row| (row.order_id, row.live_mode)))))
}

/// Those of the next orders that have no record, which the pages by first record cannot contain. `None` when there are no more
/// orders.
async fn without_records(connection: &mut PgConnection, after: &mut (String, bool)) -> Result<Option<Page>, Error> {
    let rows = sqlx::query!(
        r#"-- refold_without_records
           SELECT o.order_id, o.live_mode, EXISTS (
               SELECT 1 FROM event_records e
               WHERE e.order_id = o.order_id AND e.live_mode = o.live_mode
                 AND e.outcome_code <> 'x') AS "has_records!"
           FROM (SELECT order_id, live_mode FROM orders WHERE (order_id, live_mode) > ($1, $2)
                 ORDER BY order_id, live_mode LIMIT $3) o
           ORDER BY o.order_id, o.live_mode"#,
        after.0,
        after.1,
        PAGE_ROWS
    );
    let rows = rows.fetch_all(connection).await?;
    let Some(last) = rows.last() else { return Ok(None) };
    *after = (last.order_id.clone(), last.live_mode);
    let unrecorded = rows.into_iter().filter(|row| !row.has_records);
    Ok(Some(page(unrecorded.map(|row| (row.order_id, row.live_mode)))))
}
