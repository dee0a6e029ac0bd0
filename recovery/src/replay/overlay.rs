//! The tables that a dry run writes: private copies in front of the live ones.
//!
//! A connection's temporary tables hide tables of the same name, so that the unchanged statements of live processing
//! write to the copies. The rows that a chunk affects are copied before it is applied. Later chunks see the changes of
//! earlier ones, as in a real run; rolled-back transactions could not show that. No live row is locked, and the
//! connection is read-only except for its temporary tables: a table that is missing here makes the dry run fail instead
//! of writing to the live table.

use std::{borrow::Cow, collections::BTreeSet};

use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use riverlock_schemas::events::file_event::{FileEvent, Purpose};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _, postgres::PgRow, types::Uuid};

use super::{Consumer, Effect, OrderChange, chunk, report::Chain};
use crate::replay::report::ChunkResult;
use riverlock_ledger::{
    Error, PostgresConfig, Record, batch,
    postgres::{TRANSACTION_LIMIT, bounded},
    store::event_key,
};

/// First id that the database assigns in the copies, above every live id.
const IDS_FROM: i64 = 1 << 62;

/// Tables of names and their numbers, which are copied as a whole: a chunk may add names.
const NAMES: [&str; 2] = ["event_types", "event_reasons"];

/// A connection whose writes are invisible to all others.
pub(super) struct Overlay {
    connection: PgConnection,
    copies: Copies,
    /// Number of chunks applied, and the number at which the next ANALYZE runs: autovacuum ignores temporary tables.
    chunks: u64,
    analyze_at: u64,
}

/// The copied tables and rows.
struct Copies {
    /// The schema with the live tables.
    live: String,
    /// Tables whose rows belong to an order.
    by_order: Vec<String>,
    /// Number of documents copied.
    documents: u64,
}

impl Overlay {
    pub(super) async fn open(postgres: &PostgresConfig) -> Result<Self, Error> {
        bounded(TRANSACTION_LIMIT, Self::make(postgres)).await
    }

    async fn make(postgres: &PostgresConfig) -> Result<Self, Error> {
        let mut connection = postgres.connect().await?;
        let live: String = sqlx::query_scalar(
            "-- replay_overlay_schema
             SELECT quote_ident(nspname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
             WHERE c.oid = 'events'::regclass",
        )
        .fetch_one(&mut connection)
        .await?;
        let by_order: Vec<String> = sqlx::query_scalar(
            "-- replay_overlay_tables
             SELECT quote_ident(c.relname) FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid
             WHERE relnamespace = $1::regnamespace AND relkind = 'r' AND attname IN ('order_id', 'live_mode')
             AND NOT attisdropped AND c.relname <> 'events' GROUP BY c.relname HAVING count(*) = 2 ORDER BY 1",
        )
        .bind(&live)
        .fetch_all(&mut connection)
        .await?;
        // Read before the copies exist, while the names in it are not qualified.
        let view: String =
            sqlx::query_scalar("SELECT pg_get_viewdef('event_records'::regclass)").fetch_one(&mut connection).await?;
        let copies =
            by_order.iter().map(String::as_str).chain(["events", "dead_letters", "odd_event_ids"]).chain(NAMES);
        for table in copies {
            let statement =
                format!("CREATE TEMPORARY TABLE {table} (LIKE {live}.{table} INCLUDING ALL EXCLUDING GENERATED)");
            sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
        }
        for table in NAMES {
            let statement = format!("INSERT INTO pg_temp.{table} OVERRIDING SYSTEM VALUE SELECT * FROM {live}.{table}");
            sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
        }
        let statement = format!("CREATE TEMPORARY VIEW event_records AS {view}");
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
        for statement in [
            // The orders as they were when they were copied.
            "CREATE TEMPORARY TABLE replay_before (order_id text COLLATE \"C\", live_mode boolean, version integer, status text,
             PRIMARY KEY (order_id, live_mode))",
            "CREATE TEMPORARY TABLE replay_orders (order_id text COLLATE \"C\" PRIMARY KEY)",
        ] {
            sqlx::query(statement).execute(&mut connection).await?;
        }
        let restarts: Vec<String> = sqlx::query_scalar(
            "-- replay_overlay_identities
             SELECT format('ALTER TABLE pg_temp.%I ALTER COLUMN %I RESTART WITH %s', relname, attname,
                           CASE atttypid WHEN 'bigint'::regtype THEN $1 ELSE power(2, 8 * attlen - 2)::bigint END)
             FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid
             WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r' AND attidentity <> ''",
        )
        .bind(IDS_FROM)
        .fetch_all(&mut connection)
        .await?;
        for restart in restarts {
            sqlx::query(AssertSqlSafe(restart)).execute(&mut connection).await?;
        }
        // One snapshot per chunk, so that its rows are copied consistently.
        sqlx::query("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            .execute(&mut connection)
            .await?;
        Ok(Self { connection, copies: Copies { live, by_order, documents: 0 }, chunks: 0, analyze_at: 1 })
    }

    /// Applies a chunk to the copies, after copying the rows that it affects.
    pub(super) async fn apply(
        &mut self,
        consumers: &[Consumer],
        records: &[Record],
        now: DateTime<Utc>,
    ) -> Result<ChunkResult, Error> {
        if records.is_empty() {
            return Ok(ChunkResult::default());
        }
        let mut transaction = self.connection.begin().await?;
        self.copies.add(&mut transaction, records).await?;
        let result = chunk::apply(&mut transaction, consumers, records, now).await?;
        transaction.commit().await?;
        self.chunks += 1;
        if self.chunks >= self.analyze_at {
            self.analyze_at *= 4;
            let by_order = self.copies.by_order.iter().map(String::as_str);
            for table in by_order.chain(["events", "replay_orders", "replay_before"]) {
                sqlx::query(AssertSqlSafe(format!("ANALYZE pg_temp.{table}"))).execute(&mut self.connection).await?;
            }
        }
        Ok(result)
    }

    /// Returns how many orders would change, and the first of them.
    pub(super) async fn orders(&mut self, limit: i64) -> Result<(u64, Vec<OrderChange>), Error> {
        const CHANGED: &str = "FROM pg_temp.orders o LEFT JOIN pg_temp.replay_before b USING (order_id, live_mode)
                               WHERE b.version IS DISTINCT FROM o.version";
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) {CHANGED}")))
            .fetch_one(&mut self.connection)
            .await?;
        let list = format!(
            "SELECT order_id, live_mode, b.status AS before, o.status AS after {CHANGED} ORDER BY order_id, live_mode LIMIT $1"
        );
        let rows = sqlx::query(AssertSqlSafe(list)).bind(limit).fetch_all(&mut self.connection).await?;
        let changes = rows.iter().map(|row| {
            Ok(OrderChange {
                order_id: row.try_get("order_id")?,
                live_mode: row.try_get("live_mode")?,
                before: row.try_get("before")?,
                after: row.try_get("after")?,
            })
        });
        Ok((u64::try_from(count).unwrap_or_default(), changes.collect::<Result<_, sqlx::Error>>()?))
    }

    /// Returns how many messages would be sent, and the first of them. All of them are added to the hash.
    pub(super) async fn effects(&mut self, limit: usize, hash: &mut Chain) -> Result<(u64, Vec<Effect>), Error> {
        let mut rows = sqlx::query(
            "-- replay_overlay_effects
             SELECT order_id, live_mode, kind, effect_key FROM pg_temp.outbox WHERE message_id >= $1
             ORDER BY order_id, live_mode, kind, effect_key",
        )
        .bind(IDS_FROM)
        .fetch(&mut self.connection);
        let (mut count, mut first) = (0, Vec::new());
        // Streamed, because the number of rows is not limited.
        while let Some(row) = bounded(TRANSACTION_LIMIT, async { Ok::<_, Error>(rows.try_next().await?) }).await? {
            let effect = effect(&row)?;
            hash.add_effect(&effect);
            count += 1;
            if first.len() < limit {
                first.push(effect);
            }
        }
        Ok((count, first))
    }

    /// Returns how many documents would be queued.
    pub(super) async fn documents(&mut self) -> Result<u64, Error> {
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM pg_temp.invoices").fetch_one(&mut self.connection).await?;
        Ok(u64::try_from(count).unwrap_or_default().saturating_sub(self.copies.documents))
    }
}

impl Copies {
    /// Copies the rows that these records affect.
    async fn add(&mut self, transaction: &mut PgConnection, records: &[Record]) -> Result<(), Error> {
        let concerned = AffectedKeys::by(records);
        let live = &self.live;
        let events = format!(
            "-- replay_overlay_events
             INSERT INTO pg_temp.events SELECT * FROM {live}.events
             -- In two halves, each of which has an index.
             WHERE (event_key = ANY($1) AND outcome_code IN ('a', 'i', 'x'))
                OR (event_key = ANY($1) AND outcome_code IN ('d', 'c')) ON CONFLICT DO NOTHING
             RETURNING order_id"
        );
        let ids = format!(
            "-- replay_overlay_ids
             INSERT INTO pg_temp.odd_event_ids SELECT * FROM {live}.odd_event_ids WHERE event_key = ANY($1)
             ON CONFLICT DO NOTHING"
        );
        sqlx::query(AssertSqlSafe(ids)).bind(&concerned.events).execute(&mut *transaction).await?;
        let others: Vec<Option<String>> =
            sqlx::query_scalar(AssertSqlSafe(events)).bind(&concerned.events).fetch_all(&mut *transaction).await?;
        // Orders of a contradicted event are marked, so they are copied too.
        let orders: Vec<String> = concerned
            .orders
            .iter()
            .cloned()
            .chain(others.into_iter().flatten())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        // Only orders that are not copied yet: copies may have been changed by earlier chunks.
        let orders: Vec<String> = sqlx::query_scalar(
            "-- replay_overlay_orders
             INSERT INTO pg_temp.replay_orders SELECT * FROM unnest($1::text[]) ON CONFLICT DO NOTHING RETURNING order_id",
        )
        .bind(&orders)
        .fetch_all(&mut *transaction)
        .await?;
        for table in &self.by_order {
            let statement = format!(
                "-- replay_overlay_rows
                 INSERT INTO pg_temp.{table} OVERRIDING SYSTEM VALUE SELECT * FROM {live}.{table}
                 WHERE order_id = ANY($1) ON CONFLICT DO NOTHING"
            );
            let copied = sqlx::query(AssertSqlSafe(statement)).bind(&orders).execute(&mut *transaction).await?;
            if table == "invoices" {
                self.documents += copied.rows_affected();
            }
        }
        // A document may have been announced for another order.
        let documents = format!(
            "-- replay_overlay_documents
             INSERT INTO pg_temp.invoices SELECT * FROM {live}.invoices WHERE file_id = ANY($1::uuid[]) ON CONFLICT DO NOTHING"
        );
        let copied = sqlx::query(AssertSqlSafe(documents)).bind(&concerned.files).execute(&mut *transaction).await?;
        self.documents += copied.rows_affected();
        sqlx::query(
            "-- replay_overlay_before
             INSERT INTO pg_temp.replay_before SELECT order_id, live_mode, version, status FROM pg_temp.orders
             WHERE order_id = ANY($1) ON CONFLICT DO NOTHING",
        )
        .bind(&orders)
        .execute(&mut *transaction)
        .await?;
        Ok(())
    }
}

fn effect(row: &PgRow) -> Result<Effect, sqlx::Error> {
    Ok(Effect {
        order_id: row.try_get("order_id")?,
        live_mode: row.try_get("live_mode")?,
        kind: row.try_get("kind")?,
        effect_key: row.try_get("effect_key")?,
    })
}

/// Keys of the rows that records affect.
struct AffectedKeys {
    events: Vec<Uuid>,
    orders: Vec<String>,
    files: Vec<String>,
}

impl AffectedKeys {
    fn by(records: &[Record]) -> Self {
        let (mut events, mut orders, mut files) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for record in records {
            let Some(envelope) = batch::envelope(record) else {
                events.insert(event_key::of(&batch::unreadable_id(record)));
                continue;
            };
            events.insert(event_key::of(&batch::stored_event_id(&envelope)));
            orders.extend(batch::order_key(&envelope).map(Cow::into_owned));
            let purpose = Purpose::of_event_type(&envelope.event_type);
            let file = purpose.and_then(|purpose| FileEvent::parse(&envelope, purpose, &record.payload).ok());
            files.extend(file.map(|event| event.file_id.to_string()));
        }
        Self {
            events: events.into_iter().collect(),
            orders: orders.into_iter().collect(),
            files: files.into_iter().collect(),
        }
    }
}
