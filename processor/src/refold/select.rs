//! Which orders are folded again, a page at a time.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use riverlock_ledger::Error;
use riverlock_schemas::{Mode, OrderId};
use sqlx::PgConnection;

use crate::domain::{OrderKey, Status};

/// Orders that are folded together.
const PAGE_ORDERS: i64 = 500;
/// Rows of the audit that are looked at for orders that begin there.
const PAGE_EVENTS: i64 = 2_000;

/// Which orders are folded again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Those with these ids, in both modes.
    Ids(Vec<OrderId>),
    /// Those that have a row with these properties.
    Like {
        /// This status.
        status: Option<Status>,
        /// Changed at this time or later.
        changed_since: Option<DateTime<Utc>>,
    },
    /// Every order that an event was ever about, and every order that has a row.
    All,
}

/// Where the next page begins.
enum Next {
    Ids(std::vec::IntoIter<OrderId>),
    Like {
        status: Option<Status>,
        changed_since: Option<DateTime<Utc>>,
        after: (String, bool),
    },
    /// Orders by the first of their records, so that those are folded together whose records lie together.
    Events {
        after: (i16, i32, i64),
    },
    /// Orders of which there is no record.
    Rows {
        after: (String, bool),
    },
    End,
}

/// Gives the orders of a selection, each once.
pub(super) struct Pages(Next);

impl Pages {
    pub(super) fn new(selection: Selection) -> Self {
        Self(match selection {
            Selection::Ids(ids) => {
                Next::Ids(ids.into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().into_iter())
            }
            Selection::Like { status, changed_since } => {
                Next::Like { status, changed_since, after: (String::new(), false) }
            }
            Selection::All => Next::Events { after: (i16::MIN, 0, 0) },
        })
    }

    /// The next page, which may be empty; `None` when there are no more.
    pub(super) async fn next(&mut self, connection: &mut PgConnection) -> Result<Option<Vec<OrderKey>>, Error> {
        match &mut self.0 {
            Next::Ids(ids) => {
                let page: Vec<OrderId> = ids.take(usize::try_from(PAGE_ORDERS).unwrap_or(usize::MAX)).collect();
                if page.is_empty() {
                    return Ok(None);
                }
                by_id(connection, &page).await.map(Some)
            }
            Next::Like { status, changed_since, after } => {
                let page = like(connection, *status, *changed_since, after).await?;
                if let Some(last) = page.last() {
                    *after = (last.order_id.as_str().to_owned(), last.mode.is_live());
                    Ok(Some(page))
                } else {
                    self.0 = Next::End;
                    Ok(None)
                }
            }
            Next::Events { after } => match by_first_record(connection, after).await? {
                Some(page) => Ok(Some(page)),
                None => {
                    self.0 = Next::Rows { after: (String::new(), false) };
                    Ok(Some(Vec::new()))
                }
            },
            Next::Rows { after } => {
                let page = without_records(connection, after).await?;
                if let Some(last) = page.last() {
                    *after = (last.order_id.as_str().to_owned(), last.mode.is_live());
                    Ok(Some(page))
                } else {
                    self.0 = Next::End;
                    Ok(None)
                }
            }
            Next::End => Ok(None),
        }
    }
}

/// How many orders a selection has, about.
pub(super) async fn count(connection: &mut PgConnection, selection: &Selection) -> Result<u64, Error> {
    let (status, changed_since) = match selection {
        Selection::Ids(ids) => return Ok(ids.len() as u64),
        Selection::Like { status, changed_since } => (*status, *changed_since),
        Selection::All => (None, None),
    };
    let count = sqlx::query_scalar!(
        r#"-- refold_count
           SELECT count(*) AS "count!" FROM orders
           WHERE ($1::text IS NULL OR status = $1) AND ($2::timestamptz IS NULL OR changed_at >= $2)"#,
        status.map(Status::as_str),
        changed_since
    );
    Ok(u64::try_from(count.fetch_one(connection).await?).unwrap_or_default())
}

fn keys(rows: impl IntoIterator<Item = (String, bool)>) -> Result<Vec<OrderKey>, Error> {
    let key = |(order_id, live_mode): (String, bool)| {
        let id = order_id.clone();
        let order_id = OrderId::parse(order_id).map_err(|error| Error::Inconsistent {
            table: "orders",
            id,
            reason: format!("the order id {error}"),
        })?;
        Ok(OrderKey { order_id, mode: Mode::from_live(live_mode) })
    };
    rows.into_iter().map(key).collect()
}

async fn by_id(connection: &mut PgConnection, ids: &[OrderId]) -> Result<Vec<OrderKey>, Error> {
    let rows = sqlx::query!(
        r#"-- refold_by_id
           SELECT order_id AS "order_id!", live_mode AS "live_mode!" FROM orders WHERE order_id = ANY($1::text[])
           UNION
           SELECT order_id, live_mode FROM events
           WHERE order_id = ANY($1::text[]) AND live_mode IS NOT NULL AND outcome <> 'dead'
           ORDER BY 1, 2"#,
        &ids.iter().map(OrderId::as_str).collect::<Vec<_>>() as _
    );
    keys(rows.fetch_all(connection).await?.into_iter().map(|row| (row.order_id, row.live_mode)))
}

async fn like(
    connection: &mut PgConnection,
    status: Option<Status>,
    changed_since: Option<DateTime<Utc>>,
    after: &(String, bool),
) -> Result<Vec<OrderKey>, Error> {
    let rows = sqlx::query!(
        "-- refold_like
         SELECT order_id, live_mode FROM orders
         WHERE (order_id, live_mode) > ($1, $2)
           AND ($3::text IS NULL OR status = $3) AND ($4::timestamptz IS NULL OR changed_at >= $4)
         ORDER BY order_id, live_mode LIMIT $5",
        after.0,
        after.1,
        status.map(Status::as_str),
        changed_since,
        PAGE_ORDERS
    );
    keys(rows.fetch_all(connection).await?.into_iter().map(|row| (row.order_id, row.live_mode)))
}

/// The orders whose first record lies in the next rows of the audit; `None` when there are no more rows.
async fn by_first_record(
    connection: &mut PgConnection,
    after: &mut (i16, i32, i64),
) -> Result<Option<Vec<OrderKey>>, Error> {
    let last = sqlx::query!(
        "-- refold_page_end
         SELECT topic_id, partition, record_offset FROM (
             SELECT topic_id, partition, record_offset FROM events
             WHERE (topic_id, partition, record_offset) > ($1, $2, $3)
             ORDER BY topic_id, partition, record_offset LIMIT $4
         ) page ORDER BY topic_id DESC, partition DESC, record_offset DESC LIMIT 1",
        after.0,
        after.1,
        after.2,
        PAGE_EVENTS
    );
    let Some(last) = last.fetch_optional(&mut *connection).await? else { return Ok(None) };
    let rows = sqlx::query!(
        r#"-- refold_by_first_record
           SELECT DISTINCT e.order_id AS "order_id!", e.live_mode AS "live_mode!" FROM events e
           WHERE (e.topic_id, e.partition, e.record_offset) > ($1, $2, $3)
             AND (e.topic_id, e.partition, e.record_offset) <= ($4, $5, $6)
             AND e.order_id IS NOT NULL AND e.live_mode IS NOT NULL AND e.outcome <> 'dead'
             AND NOT EXISTS (
                 SELECT 1 FROM events f
                 WHERE f.order_id = e.order_id AND f.live_mode = e.live_mode
                   AND f.outcome <> 'dead'
                   AND (f.topic_id, f.partition, f.record_offset) <= ($1, $2, $3))
           ORDER BY 1, 2"#,
        after.0,
        after.1,
        after.2,
        last.topic_id,
        last.partition,
        last.record_offset
    );
    let page = keys(rows.fetch_all(connection).await?.into_iter().map(|row| (row.order_id, row.live_mode)))?;
    *after = (last.topic_id, last.partition, last.record_offset);
    Ok(Some(page))
}

/// Orders of which there is no record: nobody can have folded them.
async fn without_records(connection: &mut PgConnection, after: &(String, bool)) -> Result<Vec<OrderKey>, Error> {
    let rows = sqlx::query!(
        "-- refold_without_records
         SELECT o.order_id, o.live_mode FROM orders o
         WHERE (o.order_id, o.live_mode) > ($1, $2) AND NOT EXISTS (
             SELECT 1 FROM events e
             WHERE e.order_id = o.order_id AND e.live_mode = o.live_mode AND e.outcome <> 'dead')
         ORDER BY o.order_id, o.live_mode LIMIT $3",
        after.0,
        after.1,
        PAGE_ORDERS
    );
    keys(rows.fetch_all(connection).await?.into_iter().map(|row| (row.order_id, row.live_mode)))
}
