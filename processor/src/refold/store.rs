//! The SQL of refold.
//!
//! Rows are compared as JSON that PostgreSQL produces, not as this version parses them, so rows that this version cannot parse
//! completely are found and corrected too. The tables with parts of orders are taken from the catalog: those with a foreign key
//! to `orders`.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use riverlock_ledger::{Error, spellings};
use riverlock_schemas::{Mode, OrderId, kafka::record::Position};
use sqlx::{AssertSqlSafe, PgConnection, types::Uuid};

use crate::{domain::OrderKey, store::FiredEffects};

/// The table of the orders themselves.
pub(super) const ORDERS: &str = "orders";
/// Columns that are not compared: when and how often a row was written, and what has fired.
const HISTORY: &str = "{version,fired,first_seen_at,changed_at}";

/// A record in `events` that may contribute to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AuditedRecord {
    pub(super) position: Position,
    /// The position from which its body is read. For a record of an earlier Kafka cluster, this is the position of a later
    /// record with the same body, if there is one.
    pub(super) body_at: Position,
    pub(super) topic_id: i16,
    pub(super) outcome: String,
    pub(super) body_sha256: Vec<u8>,
    /// The broker's timestamp, if it has one.
    pub(super) received_at: Option<DateTime<Utc>>,
    /// Whether another body with the same event id contradicts it.
    pub(super) is_contradicted: bool,
    /// The body, if it is stored in the database.
    pub(super) kept: Option<Vec<u8>>,
}

/// A table that holds parts of orders.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) table: String,
    /// Primary key columns other than the order's key.
    pub(super) key: Vec<String>,
}

/// An order's rows, by table, as JSON.
pub(super) type Rows = BTreeMap<String, Vec<String>>;

fn columns(keys: &[OrderKey]) -> (Vec<String>, Vec<bool>) {
    keys.iter().map(|key| (key.order_id.as_str().to_owned(), key.mode.is_live())).unzip()
}

/// Parses a key from the database. An invalid one cannot have come from an event.
fn key(order_id: String, live_mode: bool) -> Result<OrderKey, Error> {
    let id = order_id.clone();
    let order_id = OrderId::parse(order_id).map_err(|error| Error::Inconsistent {
        table: ORDERS,
        id,
        reason: format!("the order id {error}"),
    })?;
    Ok(OrderKey { order_id, mode: Mode::from_live(live_mode) })
}

/// `orders`, and the tables that refer to it.
pub(super) async fn parts(connection: &mut PgConnection) -> Result<Vec<Part>, Error> {
    let rows = sqlx::query!(
        r#"-- orders_parts
           SELECT c.relname::text AS "table!", array_agg(a.attname::text ORDER BY a.attnum) AS "key!"
           FROM pg_class c
           JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
           JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
           WHERE c.oid = 'orders'::regclass
              OR c.oid IN (SELECT conrelid FROM pg_constraint WHERE contype = 'f' AND confrelid = 'orders'::regclass)
           GROUP BY c.oid, c.relname ORDER BY c.oid <> 'orders'::regclass, c.relname"#
    );
    let rows = rows.fetch_all(connection).await?;
    let own = |name: &String| name != "order_id" && name != "live_mode";
    Ok(rows.into_iter().map(|row| Part { table: row.table, key: row.key.into_iter().filter(own).collect() }).collect())
}

/// Creates empty temporary tables into which recomputed orders are written for comparison.
pub(super) async fn make_scratch(
    scratch: &mut PgConnection,
    live: &mut PgConnection,
    parts: &[Part],
) -> Result<(), Error> {
    let schema = sqlx::query_scalar!(
        r#"-- schema_current
        SELECT quote_ident(current_schema()::text) AS "name!""#
    );
    let schema = schema.fetch_one(live).await?;
    for Part { table, .. } in parts {
        let statement =
            format!("-- scratch_make\nCREATE TEMPORARY TABLE {table} (LIKE {schema}.{table} INCLUDING ALL)");
        sqlx::query(AssertSqlSafe(statement)).execute(&mut *scratch).await?;
    }
    Ok(())
}

/// The records that may contribute to orders, by position.
pub(super) async fn audited(
    connection: &mut PgConnection,
    keys: &[OrderKey],
    other_topics: &[String],
) -> Result<BTreeMap<OrderKey, Vec<AuditedRecord>>, Error> {
    let (order_ids, live_modes) = columns(keys);
    let rows = sqlx::query!(
        r#"-- refold_audited
           SELECT e.order_id AS "order_id!", e.live_mode AS "live_mode!", e.topic_id AS "topic_id!", t.full_name AS "name!",
                  e.partition AS "partition!", e.record_offset AS "record_offset!", e.event_key AS "event_key!",
                  e.outcome AS "outcome!", e.body_sha256 AS "body_sha256!", e.received_at AS "received_at!", d.payload AS "payload?", again.full_name AS "again_name?", again.partition AS "again_partition?",
                  again.record_offset AS "again_offset?"
           FROM event_records e
           JOIN topic_names t USING (topic_id)
           LEFT JOIN dead_letters d USING (topic_id, partition, record_offset)
           LEFT JOIN LATERAL (
               SELECT n.full_name, a.partition, a.record_offset FROM events a JOIN topic_names n USING (topic_id)
               WHERE NOT t.is_current AND n.is_current AND a.event_key = e.event_key AND a.outcome_code = 'd'
                 AND a.body_sha256 = e.body_sha256
               LIMIT 1
           ) again ON true
           WHERE (e.order_id, e.live_mode) IN (SELECT * FROM unnest($1::text[], $2::boolean[]))
             AND (e.outcome_code IN ('a', 'c', 'i') OR (e.outcome_code = 'd' AND e.content IS NOT NULL))
             AND t.name <> ALL($3)
           ORDER BY t.full_name, e.partition, e.record_offset"#,
        &order_ids,
        &live_modes,
        other_topics
    );
    let rows = rows.fetch_all(&mut *connection).await?;
    let event_keys: BTreeSet<Uuid> = rows.iter().map(|row| row.event_key).collect();
    let contradicted = spellings::contradicted(connection, &event_keys.into_iter().collect::<Vec<_>>()).await?;
    let mut orders: BTreeMap<OrderKey, Vec<AuditedRecord>> = BTreeMap::new();
    for row in rows {
        let position = Position { topic: row.name, partition: row.partition, offset: row.record_offset };
        let again = match (row.again_name, row.again_partition, row.again_offset) {
            (Some(topic), Some(partition), Some(offset)) => Some(Position { topic, partition, offset }),
            _ => None,
        };
        let audited = AuditedRecord {
            body_at: again.unwrap_or_else(|| position.clone()),
            position,
            topic_id: row.topic_id,
            outcome: row.outcome,
            body_sha256: row.body_sha256,
            received_at: (row.received_at != DateTime::UNIX_EPOCH).then_some(row.received_at),
            is_contradicted: contradicted.contains(&(row.topic_id, row.partition, row.record_offset)),
            kept: row.payload,
        };
        orders.entry(key(row.order_id, row.live_mode)?).or_default().push(audited);
    }
    Ok(orders)
}

/// The rows of orders by table, without the columns in [`HISTORY`].
pub(super) async fn rows(
    connection: &mut PgConnection,
    parts: &[Part],
    keys: &[OrderKey],
) -> Result<BTreeMap<OrderKey, Rows>, Error> {
    let (order_ids, live_modes) = columns(keys);
    let mut orders: BTreeMap<OrderKey, Rows> = BTreeMap::new();
    for Part { table, .. } in parts {
        let statement = format!(
            "-- refold_rows
             SELECT order_id, live_mode, (to_jsonb(t) - '{HISTORY}'::text[])::text FROM {table} t
             WHERE (order_id, live_mode) IN (SELECT * FROM unnest($1::text[], $2::boolean[])) ORDER BY 1, 2, 3"
        );
        let query = sqlx::query_as::<_, (String, bool, String)>(AssertSqlSafe(statement));
        for (order_id, live_mode, row) in query.bind(&order_ids).bind(&live_modes).fetch_all(&mut *connection).await? {
            orders.entry(key(order_id, live_mode)?).or_default().entry(table.clone()).or_default().push(row);
        }
    }
    Ok(orders)
}

/// Locks orders until the transaction ends, and returns the versions and fired effects of those that exist. Orders are locked
/// in the order of their keys, as everywhere, to avoid deadlocks.
pub(super) async fn lock(
    connection: &mut PgConnection,
    keys: &[OrderKey],
) -> Result<BTreeMap<OrderKey, (i32, FiredEffects)>, Error> {
    let (order_ids, live_modes) = columns(keys);
    let rows = sqlx::query!(
        r#"-- refold_lock
           SELECT order_id, live_mode, version, fired::text AS "fired!" FROM orders
           WHERE (order_id, live_mode) IN (SELECT * FROM unnest($1::text[], $2::boolean[]))
           ORDER BY order_id, live_mode FOR UPDATE"#,
        &order_ids,
        &live_modes
    );
    rows.fetch_all(connection)
        .await?
        .into_iter()
        .map(|row| Ok((key(row.order_id, row.live_mode)?, (row.version, FiredEffects::from_json(row.fired)))))
        .collect()
}

/// Reads the fired effects of orders.
pub(super) async fn fired(
    connection: &mut PgConnection,
    keys: &[OrderKey],
) -> Result<BTreeMap<OrderKey, FiredEffects>, Error> {
    let (order_ids, live_modes) = columns(keys);
    let rows = sqlx::query!(
        r#"-- refold_fired
           SELECT order_id, live_mode, fired::text AS "fired!" FROM orders
           WHERE (order_id, live_mode) IN (SELECT * FROM unnest($1::text[], $2::boolean[]))"#,
        &order_ids,
        &live_modes
    );
    let rows = rows.fetch_all(connection).await?.into_iter();
    rows.map(|row| Ok((key(row.order_id, row.live_mode)?, FiredEffects::from_json(row.fired)))).collect()
}

/// Deletes the parts of orders, so that afterwards only newly written parts exist.
pub(super) async fn remove_parts(
    connection: &mut PgConnection,
    parts: &[Part],
    keys: &[OrderKey],
) -> Result<(), Error> {
    let (order_ids, live_modes) = columns(keys);
    for Part { table, .. } in parts.iter().filter(|part| part.table != ORDERS) {
        let statement = format!(
            "-- refold_remove_parts
             DELETE FROM {table} WHERE (order_id, live_mode) IN (SELECT * FROM unnest($1::text[], $2::boolean[]))"
        );
        sqlx::query(AssertSqlSafe(statement)).bind(&order_ids).bind(&live_modes).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Changes the outcome of records that were ignored and contribute now to `applied`.
pub(super) async fn mark_applied(connection: &mut PgConnection, records: &[&AuditedRecord]) -> Result<(), Error> {
    if records.is_empty() {
        return Ok(());
    }
    let marked = sqlx::query!(
        "-- refold_mark_applied
         UPDATE events SET outcome_code = 'a', reason_id = 0
         WHERE (topic_id, partition, record_offset) IN (SELECT * FROM unnest($1::smallint[], $2::integer[], $3::bigint[]))
           AND outcome_code = 'i'",
        &records.iter().map(|record| record.topic_id).collect::<Vec<_>>(),
        &records.iter().map(|record| record.position.partition).collect::<Vec<_>>(),
        &records.iter().map(|record| record.position.offset).collect::<Vec<_>>(),
    );
    if marked.execute(connection).await?.rows_affected() == records.len() as u64 {
        Ok(())
    } else {
        Err(Error::LostRace("an outcome"))
    }
}

/// Stores the previous rows of an order.
pub(super) async fn add_refold(
    connection: &mut PgConnection,
    key: &OrderKey,
    version: i32,
    before: &Rows,
    (by, why): (&str, &str),
    now: DateTime<Utc>,
) -> Result<(), Error> {
    // The rows are already JSON from PostgreSQL.
    let tables: Vec<String> = before.iter().map(|(table, rows)| format!("\"{table}\":[{}]", rows.join(","))).collect();
    sqlx::query!(
        "-- refolds_add
         INSERT INTO refolds (order_id, live_mode, refolded_at, refolded_by, reason, version, before)
         VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb)",
        key.order_id.as_str(),
        key.mode.is_live(),
        now,
        by,
        why,
        version,
        format!("{{{}}}", tables.join(",")),
    )
    .execute(connection)
    .await?;
    Ok(())
}
