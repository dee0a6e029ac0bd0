//! Inserting rows without processing.
//!
//! The rows are read from a database that the processor filled, as arrays in PostgreSQL's binary format, and inserted
//! unchanged: nothing is encoded during the measurement, and no column is named that a migration could add or rename.

use std::{collections::HashMap, sync::Arc};

use riverlock_ledger::PostgresConfig;
use sqlx::{
    AssertSqlSafe, Connection as _, Encode, PgConnection, Postgres, Row as _, Type, TypeInfo as _, ValueRef as _,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo, PgValueFormat},
};
use tokio::task::JoinSet;

/// How the batch of a row follows: from its number among the events, or from its order.
const BATCHES: &str = "
    CREATE TEMPORARY TABLE batch_of_order AS
    SELECT order_id, live_mode, ntile($) OVER (ORDER BY first_seen_at, order_id) AS batch FROM orders";
/// Separator of list items inside a column.
const SEPARATOR: &str = "E'\\x1f'";

/// A value of any type in PostgreSQL's binary format.
struct Raw {
    bytes: Vec<u8>,
    type_info: PgTypeInfo,
}

impl Type<Postgres> for Raw {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("unknown")
    }
}

impl Encode<'_, Postgres> for Raw {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.bytes);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(self.type_info.clone())
    }
}

/// A table's statement, and its columns by batch.
struct Table {
    statement: String,
    batches: Vec<Vec<Raw>>,
}

/// The rows that events produced.
pub(crate) struct Rows {
    pub(crate) events: usize,
    batches: usize,
    tables: Arc<HashMap<&'static str, Table>>,
}

/// The expressions that read and insert a column.
struct Column {
    name: String,
    /// Its type; a list is sent as one text.
    kind: String,
    is_list: bool,
}

impl Rows {
    /// Reads all rows, in batches of as many events as the processor's.
    pub(crate) async fn read(connection: &mut PgConnection, batch_events: usize) -> anyhow::Result<Self> {
        let events: i64 = sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&mut *connection).await?;
        let events = usize::try_from(events)?;
        let batches = events.div_ceil(batch_events).max(1);
        let numbered = BATCHES.replace('$', &batches.to_string());
        sqlx::query(AssertSqlSafe(numbered)).execute(&mut *connection).await?;
        let of_event = format!("SELECT *, ntile({batches}) OVER (ORDER BY ctid) AS batch FROM events");
        let of_order = |table: &str| format!("SELECT * FROM {table} JOIN batch_of_order USING (order_id, live_mode)");
        let mut tables = HashMap::new();
        for (table, rows) in [("events", of_event), ("orders", of_order("orders")), ("outbox", of_order("outbox"))] {
            tables.insert(table, Table::read(connection, table, &rows, batches).await?);
        }
        Ok(Self { events, batches, tables: Arc::new(tables) })
    }

    /// Inserts the rows of these tables, one transaction per batch, on as many connections as the processor has.
    pub(crate) async fn insert(
        &self,
        postgres: &PostgresConfig,
        tables: &[&str],
        connections: usize,
    ) -> anyhow::Result<()> {
        let tables: Vec<String> = tables.iter().map(|table| (*table).to_owned()).collect();
        let mut writers = JoinSet::new();
        for writer in 0..connections {
            let (all, tables, batches) = (Arc::clone(&self.tables), tables.clone(), self.batches);
            let mut connection = postgres.connect().await?;
            writers.spawn(async move {
                for batch in (writer..batches).step_by(connections) {
                    let mut transaction = connection.begin().await?;
                    for table in &tables {
                        let Table { statement, batches } = &all[table.as_str()];
                        let mut query = sqlx::query(AssertSqlSafe(statement.clone()));
                        for column in &batches[batch] {
                            query = query.bind(column);
                        }
                        query.execute(&mut *transaction).await?;
                    }
                    transaction.commit().await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(written) = writers.join_next().await {
            written??;
        }
        Ok(())
    }
}

impl Table {
    async fn read(connection: &mut PgConnection, table: &str, rows: &str, batches: usize) -> anyhow::Result<Self> {
        let columns: Vec<(String, String, bool)> = sqlx::query_as(
            "SELECT attname::text, CASE WHEN t.typcategory = 'A' THEN 'text' ELSE format_type(a.atttypid, a.atttypmod) END,
                    t.typcategory = 'A'
             FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
             WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attidentity = '' ORDER BY attnum",
        )
        .bind(table)
        .fetch_all(&mut *connection)
        .await?;
        let columns: Vec<Column> =
            columns.into_iter().map(|(name, kind, is_list)| Column { name, kind, is_list }).collect();
        let list = |column: &dyn Fn(usize, &Column) -> String| {
            columns.iter().enumerate().map(|(i, it)| column(i, it)).collect::<Vec<_>>().join(", ")
        };
        let arrays = list(&|_, Column { name, kind, is_list }| {
            let item = if *is_list { format!("array_to_string({name}, {SEPARATOR})") } else { name.clone() };
            format!("coalesce(array_agg({item}), '{{}}')::{kind}[]")
        });
        let names = list(&|_, column| column.name.clone());
        let values = list(&|i, column| {
            if column.is_list { format!("string_to_array(c{i}, {SEPARATOR})") } else { format!("c{i}") }
        });
        let parameters = list(&|i, column| format!("${}::{}[]", i + 1, column.kind));
        let aliases = list(&|i, _| format!("c{i}"));
        let statement =
            format!("INSERT INTO {table} ({names}) SELECT {values} FROM unnest({parameters}) AS n ({aliases})");
        let batched = format!(
            "CREATE TEMPORARY TABLE batched_{table} AS {rows}; CREATE INDEX ON batched_{table} (batch);
             ANALYZE batched_{table}"
        );
        sqlx::raw_sql(AssertSqlSafe(batched)).execute(&mut *connection).await?;
        let query = format!("SELECT {arrays} FROM batched_{table} WHERE batch = $1");
        let mut all = Vec::with_capacity(batches);
        for batch in 1..=batches {
            let row = sqlx::query(AssertSqlSafe(query.clone()))
                .bind(i32::try_from(batch)?)
                .fetch_one(&mut *connection)
                .await?;
            let raw = |index| {
                let value = row.try_get_raw(index)?;
                anyhow::ensure!(value.format() == PgValueFormat::Binary, "a value has the text format");
                let type_info = value.type_info().into_owned();
                let bytes = value.as_bytes().map_err(|error| anyhow::anyhow!("{}: {error}", type_info.name()))?;
                anyhow::Ok(Raw { bytes: bytes.to_vec(), type_info })
            };
            all.push((0..columns.len()).map(raw).collect::<Result<_, _>>()?);
        }
        Ok(Self { statement, batches: all })
    }
}
