//! Missing invoices: complete orders that should have an invoice and have none.
//!
//! Digital River issues invoices only for some selling entities, and never for a total of 0. The selling entities are
//! configured; without any, every order with a total above 0 is expected to have an invoice.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use riverlock_ledger::Error;
use riverlock_runtime::{ConfigError, config::DurationText};
use riverlock_schemas::Mode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

/// When a complete order without an invoice counts as missing one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MissingConfig {
    /// Time after its completion within which an order may have no stored invoice.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub after: Duration,
    /// Digital River's ids of the selling entities that issue invoices. Empty: all do.
    pub selling_entities: Vec<String>,
}

impl Default for MissingConfig {
    fn default() -> Self {
        Self { after: Duration::from_secs(24 * 3600), selling_entities: Vec::new() }
    }
}

impl MissingConfig {
    /// Validates the list.
    ///
    /// # Errors
    /// When it contains an empty id.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.selling_entities.iter().any(|entity| entity.trim().is_empty()) {
            let key = "invoice_fetcher.missing.selling_entities";
            return Err(ConfigError::refused(
                key,
                "must not contain an empty id; leave the list empty for all selling entities",
            ));
        }
        Ok(())
    }
}

/// A complete order without a stored invoice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct MissingView {
    pub order_id: String,
    pub live_mode: bool,
    pub complete_at: DateTime<Utc>,
    pub selling_entity_id: Option<String>,
    pub total_amount: Option<String>,
    pub currency: Option<String>,
    /// Number of invoices that were announced but are not stored.
    pub announced: i64,
}

/// The orders to check: complete for long enough, of every mode, whether or not it has an account.
struct Scope<'a> {
    complete_before: DateTime<Utc>,
    selling_entities: &'a [String],
}

impl<'a> Scope<'a> {
    fn new(config: &'a MissingConfig, now: DateTime<Utc>) -> Self {
        let after = TimeDelta::from_std(config.after).unwrap_or(TimeDelta::MAX);
        Self {
            complete_before: now.checked_sub_signed(after).unwrap_or(DateTime::<Utc>::MIN_UTC),
            selling_entities: &config.selling_entities,
        }
    }
}

/// An order's position in a list: completion time, id, mode.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct MissingPosition {
    pub complete_at: DateTime<Utc>,
    pub order_id: String,
    pub mode: Mode,
}

impl MissingView {
    /// The order's position in a list.
    #[must_use]
    pub fn position(&self) -> MissingPosition {
        let mode = Mode::from_live(self.live_mode);
        MissingPosition { complete_at: self.complete_at, order_id: self.order_id.clone(), mode }
    }
}

/// Lists orders without an invoice, the earliest completion first, starting after a position.
///
/// # Errors
/// When PostgreSQL returns an error or is unavailable.
pub async fn list(
    connection: &mut PgConnection,
    config: &MissingConfig,
    now: DateTime<Utc>,
    after: Option<&MissingPosition>,
    limit: i64,
) -> Result<Vec<MissingView>, Error> {
    let scope = Scope::new(config, now);
    let rows = sqlx::query_as!(
        MissingView,
        r#"-- invoices_missing
           SELECT order_id, live_mode, complete_at AS "complete_at!", details->>'sellingEntityId' AS selling_entity_id,
                  details->>'totalAmount' AS total_amount, details->>'currency' AS currency,
                  (SELECT count(*) FROM invoices i
                   WHERE i.order_id = o.order_id AND i.live_mode = o.live_mode AND i.purpose = 'invoice') AS "announced!"
           FROM orders o
           WHERE complete_at < $1 AND status NOT IN ('cancelled', 'blocked')
             AND coalesce((details->>'totalAmount')::numeric <> 0, true)
             AND (cardinality($2::text[]) = 0 OR details->>'sellingEntityId' = ANY($2))
             AND NOT EXISTS (SELECT FROM invoices i WHERE i.order_id = o.order_id AND i.live_mode = o.live_mode
                                                     AND i.purpose = 'invoice' AND i.state = 'stored')
             AND ($4::timestamptz IS NULL OR (complete_at, order_id, live_mode) > ($4, $5::text, $6::boolean))
           ORDER BY complete_at, order_id, live_mode LIMIT $3"#,
        scope.complete_before,
        scope.selling_entities,
        limit,
        after.map(|after| after.complete_at),
        after.map(|after| after.order_id.as_str()),
        after.map(|after| after.mode.is_live())
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Counts orders without an invoice by mode. Reads every complete order, so it must be called rarely.
///
/// # Errors
/// When PostgreSQL returns an error or is unavailable.
pub(crate) async fn count(
    connection: &mut PgConnection,
    config: &MissingConfig,
    now: DateTime<Utc>,
) -> Result<[(Mode, i64); 2], Error> {
    let scope = Scope::new(config, now);
    let count = sqlx::query!(
        r#"-- invoices_missing_count
           SELECT count(*) FILTER (WHERE live_mode) AS "live!", count(*) FILTER (WHERE NOT live_mode) AS "test!"
           FROM orders o
           WHERE complete_at < $1 AND status NOT IN ('cancelled', 'blocked')
             AND coalesce((details->>'totalAmount')::numeric <> 0, true)
             AND (cardinality($2::text[]) = 0 OR details->>'sellingEntityId' = ANY($2))
             AND NOT EXISTS (SELECT FROM invoices i WHERE i.order_id = o.order_id AND i.live_mode = o.live_mode
                                                     AND i.purpose = 'invoice' AND i.state = 'stored')"#,
        scope.complete_before,
        scope.selling_entities
    );
    let count = count.fetch_one(connection).await?;
    Ok([(Mode::Live, count.live), (Mode::Test, count.test)])
}
