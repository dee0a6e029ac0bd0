//! Compares the rebuilt tables with the live ones: first sums of hashes per bucket, then the rows of the buckets that differ.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};

use super::{
    Offsets, Rebuild, RebuildError, build,
    differ::{Difference, Group, differences},
    shadow,
    tables::{self, Compared, Table},
};
use riverlock_ledger::Error;

/// Into how many parts a table is divided by the hash of its key; of a part that differs all rows are read.
const BUCKETS: i64 = 4_096;
/// Differences that are listed; all are counted.
const LISTED_MAX: usize = 50;

/// The live tables as they are at one moment, for as long as it lives.
pub struct Snapshot {
    connection: PgConnection,
    target: Offsets,
}

impl Snapshot {
    /// Where the live consumers stand in it.
    #[must_use]
    pub fn target(&self) -> &Offsets {
        &self.target
    }
}

/// What the comparison found.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Records that both sides have read.
    pub records: u64,
    /// Per table.
    pub tables: Vec<TableReport>,
    /// Differences in all.
    pub total: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
}

/// What was compared of one table.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TableReport {
    /// The table.
    pub table: &'static str,
    /// Live rows that were compared.
    pub live: u64,
    /// Rebuilt rows that were compared.
    pub rebuilt: u64,
    /// Differences.
    pub differences: u64,
}

/// Rows, and the sum of their hashes.
type Sums = BTreeMap<i32, (i64, String)>;

impl Rebuild {
    /// Sees the live tables as they are now. To be compared, the rebuilt ones have to be brought to its offsets.
    ///
    /// # Errors
    /// When PostgreSQL does not answer.
    pub async fn snapshot(&self) -> Result<Snapshot, RebuildError> {
        let mut connection = shadow::connect(&self.live).await?;
        sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .execute(&mut connection)
            .await
            .map_err(Error::from)?;
        let target = self.target_of(&mut connection).await?;
        Ok(Snapshot { connection, target })
    }

    /// Compares.
    ///
    /// # Errors
    /// When PostgreSQL does not answer; a difference is no error but part of the report.
    pub async fn compare(&self, snapshot: Snapshot) -> Result<Report, RebuildError> {
        let Snapshot { connection: mut live, target } = snapshot;
        let mut rebuilt = shadow::connect(&self.shadow).await?;
        let mut report =
            Report { records: u64::try_from(target.values().sum::<i64>()).unwrap_or_default(), ..Report::default() };
        self.compare_offsets(&mut rebuilt, &target, &mut report).await?;
        for table in tables::known(&mut rebuilt, &self.shadow_schema).await? {
            if let Some(compared) = &table.compared {
                let found = self.compare_table(&mut live, &mut rebuilt, table, compared, &mut report).await?;
                report.tables.push(found);
            }
        }
        Ok(report)
    }

    async fn compare_offsets(
        &self,
        rebuilt: &mut PgConnection,
        target: &Offsets,
        report: &mut Report,
    ) -> Result<(), RebuildError> {
        let reached = build::offsets(rebuilt).await?;
        for (key, end) in target {
            let next = reached.get(key).copied().unwrap_or_default();
            if next != *end {
                let (consumer, topic_id, partition) = key;
                let key = format!("{consumer}/{topic_id}/{partition}");
                let change = super::Change::new("next_offset", end, &next);
                report.add(Difference {
                    table: "consumer_offsets",
                    key,
                    live: true,
                    rebuilt: true,
                    changes: vec![change],
                });
            }
        }
        Ok(())
    }

    async fn compare_table(
        &self,
        live: &mut PgConnection,
        rebuilt: &mut PgConnection,
        table: &Table,
        compared: &Compared,
        report: &mut Report,
    ) -> Result<TableReport, RebuildError> {
        let statement = sums_statement(table.name, compared);
        let (ours, theirs) = tokio::try_join!(sums(live, &statement), sums(rebuilt, &statement))?;
        let count = |sums: &Sums| u64::try_from(sums.values().map(|(rows, _)| rows).sum::<i64>()).unwrap_or_default();
        let mut found = TableReport { table: table.name, live: count(&ours), rebuilt: count(&theirs), differences: 0 };
        let buckets = (0..).take_while(|bucket| i64::from(*bucket) < BUCKETS);
        let differing: Vec<i32> = buckets.filter(|bucket| ours.get(bucket) != theirs.get(bucket)).collect();
        if differing.is_empty() {
            return Ok(found);
        }
        let statement = rows_statement(table.name, compared);
        let mut ours = Groups::new(live, &statement, &differing);
        let mut theirs = Groups::new(rebuilt, &statement, &differing);
        let (mut left, mut right) = (ours.next().await?, theirs.next().await?);
        // Both sides are sorted by key: what has the smaller key is missing on the other side.
        while left.is_some() || right.is_some() {
            let (take_left, take_right) = match (&left, &right) {
                (Some(a), Some(b)) => (a.key <= b.key, b.key <= a.key),
                (a, b) => (a.is_some(), b.is_some()),
            };
            let a = if take_left { std::mem::replace(&mut left, ours.next().await?) } else { None };
            let b = if take_right { std::mem::replace(&mut right, theirs.next().await?) } else { None };
            if let Some(difference) = differences(table.name, compared.rule, a, b) {
                found.differences += 1;
                report.add(difference);
            }
        }
        Ok(found)
    }
}

impl Report {
    fn add(&mut self, difference: Difference) {
        self.total += 1;
        if self.differences.len() < LISTED_MAX {
            self.differences.push(difference);
        }
    }
}

/// What a row is found by, as one text. No id holds the separator: it is a control character.
fn key(compared: &Compared) -> String {
    let parts: Vec<String> = compared.key.iter().map(|column| format!("t.{column}::text")).collect();
    format!("concat_ws(E'\\x1f', {}) COLLATE \"C\"", parts.join(", "))
}

fn sums_statement(table: &str, compared: &Compared) -> String {
    format!(
        "-- rebuild_sums
         SELECT (hashtextextended(k, 0) & {mask})::integer, count(*), sum(hashtextextended(r, 0))::text
         FROM (SELECT {key} AS k, {row} AS r FROM {table} t WHERE {only}) q GROUP BY 1",
        mask = BUCKETS - 1,
        key = key(compared),
        row = compared.row("t"),
        only = compared.only,
    )
}

fn rows_statement(table: &str, compared: &Compared) -> String {
    format!(
        "-- rebuild_rows
         SELECT k, r FROM (SELECT {key} AS k, {row} AS r FROM {table} t WHERE {only}) q
         WHERE (hashtextextended(k, 0) & {mask})::integer = ANY($1) ORDER BY k, r",
        mask = BUCKETS - 1,
        key = key(compared),
        row = compared.row("t"),
        only = compared.only,
    )
}

async fn sums(connection: &mut PgConnection, statement: &str) -> Result<Sums, Error> {
    let rows: Vec<(i32, i64, String)> =
        sqlx::query_as(AssertSqlSafe(statement.to_owned())).fetch_all(connection).await?;
    Ok(rows.into_iter().map(|(bucket, rows, sum)| (bucket, (rows, sum))).collect())
}

/// Rows as they come, grouped by key; only one group is held.
struct Groups<'a> {
    rows: futures::stream::BoxStream<'a, Result<(String, String), sqlx::Error>>,
    /// The first row of the next group.
    ahead: Option<(String, String)>,
}

impl<'a> Groups<'a> {
    fn new(connection: &'a mut PgConnection, statement: &str, buckets: &[i32]) -> Self {
        let query = sqlx::query_as(AssertSqlSafe(statement.to_owned())).bind(buckets.to_vec());
        Self { rows: query.fetch(connection), ahead: None }
    }

    async fn next(&mut self) -> Result<Option<Group>, Error> {
        let first = match self.ahead.take() {
            Some(row) => Some(row),
            None => self.rows.try_next().await?,
        };
        let Some((key, row)) = first else { return Ok(None) };
        let mut group = Group { key, rows: vec![row] };
        while let Some((key, row)) = self.rows.try_next().await? {
            if key != group.key {
                self.ahead = Some((key, row));
                break;
            }
            group.rows.push(row);
        }
        Ok(Some(group))
    }
}
