//! Paged lists of orders.

use chrono::{DateTime, Utc};
use riverlock_ledger::Error;
use riverlock_schemas::Mode;
use serde::Serialize;
use sqlx::PgConnection;

use crate::domain::Status;

/// The end of the year 9999, in microseconds since 1970: later than every order.
const LAST_MICROS: i64 = 253_402_300_799_999_999;

/// The start of a page: after this order, in the direction of older orders. The order itself need not exist any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPosition {
    /// When the first event of the order was applied.
    pub first_seen_at: DateTime<Utc>,
    /// The order's id.
    pub order_id: String,
    /// The order's mode.
    pub mode: Mode,
}

/// Selects the orders to list; `None` does not restrict the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// Orders with this status.
    pub status: Option<Status>,
    /// Orders of this mode.
    pub mode: Option<Mode>,
    /// Orders that were first seen before this position.
    pub before: Option<ListPosition>,
}

impl ListFilter {
    /// Modes, statuses, and the position after which the page begins: by default one that is later than every order.
    fn arguments(&self) -> (Vec<bool>, Vec<&'static str>, ListPosition) {
        let modes = self.mode.map_or_else(|| vec![true, false], |mode| vec![mode.is_live()]);
        let statuses =
            self.status.map_or_else(|| Status::ALL.map(Status::as_str).to_vec(), |status| vec![status.as_str()]);
        let before = self.before.clone().unwrap_or_else(|| ListPosition {
            first_seen_at: DateTime::from_timestamp_micros(LAST_MICROS).unwrap_or_default(),
            order_id: String::new(),
            mode: Mode::Test,
        });
        (modes, statuses, before)
    }
}

/// An order in a list.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct OrderSummary {
    pub order_id: String,
    #[schema(value_type = String, pattern = "^(live|test)$")]
    pub mode: Mode,
    #[schema(value_type = Status)]
    pub status: String,
    /// Number of changes of the order.
    pub version: i32,
    /// Whether contradicting bodies with the same event id were received.
    pub conflicted: bool,
    pub first_seen_at: DateTime<Utc>,
    pub changed_at: DateTime<Utc>,
}

impl OrderSummary {
    /// The order's position in a list.
    #[must_use]
    pub fn position(&self) -> ListPosition {
        ListPosition { first_seen_at: self.first_seen_at, order_id: self.order_id.clone(), mode: self.mode }
    }
}

struct SummaryRow {
    order_id: String,
    live_mode: bool,
    status: String,
    version: i32,
    conflicted: bool,
    first_seen_at: DateTime<Utc>,
    changed_at: DateTime<Utc>,
}

impl From<SummaryRow> for OrderSummary {
    fn from(row: SummaryRow) -> Self {
        Self {
            order_id: row.order_id,
            mode: Mode::from_live(row.live_mode),
            status: row.status,
            version: row.version,
            conflicted: row.conflicted,
            first_seen_at: row.first_seen_at,
            changed_at: row.changed_at,
        }
    }
}

/// Lists the orders that match a filter, the one that was first seen last comes first.
///
/// # Errors
/// When PostgreSQL returns an error or is unavailable.
pub async fn list(connection: &mut PgConnection, filter: &ListFilter, limit: i64) -> Result<Vec<OrderSummary>, Error> {
    let (modes, statuses, before) = filter.arguments();
    let rows = sqlx::query_file_as!(
        SummaryRow,
        "src/store/orders_page.sql",
        &modes,
        &statuses as _,
        before.first_seen_at,
        before.order_id,
        before.mode.is_live(),
        limit
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(OrderSummary::from).collect())
}

/// Like [`list`], but only orders with a conflict.
///
/// # Errors
/// When PostgreSQL returns an error or is unavailable.
pub async fn list_conflicted(
    connection: &mut PgConnection,
    filter: &ListFilter,
    limit: i64,
) -> Result<Vec<OrderSummary>, Error> {
    let (modes, statuses, before) = filter.arguments();
    let rows = sqlx::query_file_as!(
        SummaryRow,
        "src/store/orders_conflicted.sql",
        &modes,
        &statuses as _,
        before.first_seen_at,
        before.order_id,
        before.mode.is_live(),
        limit
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(OrderSummary::from).collect())
}
