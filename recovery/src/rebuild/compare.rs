//! Compares the rebuilt tables with the live ones: first sums of hashes per bucket, then the rows of the buckets that
//! differ.
//!
//! Orders and their details change all the time, so they are compared in one snapshot. `events` is by far the largest
//! table, and rows before the consumers' offsets do not change: it is compared in parts, each with its own snapshot, so
//! that a comparison of hours does not keep PostgreSQL from removing dead rows. If sums differ, one statement reads all
//! rows of the differing buckets. A redrive or a replay during the comparison can show up as a difference that the next
//! run no longer has.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};

use super::{
    Offsets, Rebuild, RebuildError,
    differ::{Difference, Group, differences},
    shadow, store,
    tables::{self, Rule, Table, TableComparison},
};
use crate::audit::store::{self as audit, AuditedPartition};
use riverlock_ledger::{
    Error,
    alive::{session_of, while_alive},
    store as ledger,
};

/// Buckets into which a table is divided by the hash of its key; all rows of a differing bucket are read.
const BUCKETS: i64 = 4_096;
/// Differences that are listed; all are counted.
const LISTED_MAX: usize = 50;
/// Pages of `events` that one statement hashes: 16 MiB, some 100 000 rows.
const PART_PAGES: i64 = 2_048;

/// A snapshot of the live tables.
pub struct Snapshot {
    connection: PgConnection,
    target: Offsets,
}

impl Snapshot {
    /// The live consumers' offsets in the snapshot.
    #[must_use]
    pub fn target(&self) -> &Offsets {
        &self.target
    }
}

/// Result of a comparison.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Records that both sides have read.
    pub records: u64,
    /// Results per table.
    pub tables: Vec<TableReport>,
    /// Number of differences.
    pub total: u64,
    /// The first differences, at most 50.
    pub differences: Vec<Difference>,
}

/// Result of comparing one table.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TableReport {
    /// Name of the table.
    pub table: &'static str,
    /// Live rows that were compared.
    pub live: u64,
    /// Rebuilt rows that were compared.
    pub rebuilt: u64,
    /// Number of differences.
    pub differences: u64,
}

/// Number of rows and sum of their hashes, by bucket. A hash has 64 bits, so sums of up to 10¹⁹ rows fit.
type Sums = BTreeMap<i32, (i64, i128)>;

impl Rebuild {
    /// Takes a snapshot of the live tables. Before comparing, the rebuilt tables must be brought to its offsets.
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

    /// Compares the rebuilt tables with the snapshot.
    ///
    /// # Errors
    /// When PostgreSQL fails. A difference is not an error; it is part of the report.
    pub async fn compare(&self, snapshot: Snapshot) -> Result<Report, RebuildError> {
        let Snapshot { connection: mut live, target } = snapshot;
        let mut rebuilt = shadow::connect(&self.shadow).await?;
        let sessions = [session_of(&self.live, &mut live).await?, session_of(&self.live, &mut rebuilt).await?];
        while_alive(&self.live, &sessions, self.compare_at(live, rebuilt, target)).await
    }

    async fn compare_at(
        &self,
        mut live: PgConnection,
        mut rebuilt: PgConnection,
        target: Offsets,
    ) -> Result<Report, RebuildError> {
        let mut report =
            Report { records: u64::try_from(target.values().sum::<i64>()).unwrap_or_default(), ..Report::default() };
        self.compare_offsets(&mut rebuilt, &target, &mut report).await?;
        let known = tables::known(&mut rebuilt, &self.shadow_schema).await?;
        let with = |rule: Rule| {
            let compared = known.iter().filter_map(|table| Some((*table, table.compared.as_ref()?)));
            compared.filter(move |(_, compared)| compared.rule == rule)
        };
        let everything = Bounds::default();
        for (table, compared) in with(Rule::Row) {
            let sums = |connection| sums(connection, table.name, compared);
            let sums = tokio::try_join!(sums(&mut live), sums(&mut rebuilt))?;
            let mut pair = Pair { live: &mut live, rebuilt: &mut rebuilt, bounds: &everything };
            pair.compare(table, compared, sums, &mut report).await?;
        }
        let mut partitions = audit::audited_partitions(&mut live).await?;
        sqlx::query("COMMIT").execute(&mut live).await.map_err(Error::from)?;
        partitions.append(&mut audit::audited_partitions(&mut rebuilt).await?);
        let bounds = Bounds::of(&target, &partitions);
        for (table, compared) in with(Rule::Records) {
            let sums = |connection| sums_in_parts(connection, table, compared, &bounds);
            let sums = tokio::try_join!(sums(&mut live), sums(&mut rebuilt))?;
            let mut pair = Pair { live: &mut live, rebuilt: &mut rebuilt, bounds: &bounds };
            pair.compare(table, compared, sums, &mut report).await?;
        }
        Ok(report)
    }

    async fn compare_offsets(
        &self,
        rebuilt: &mut PgConnection,
        target: &Offsets,
        report: &mut Report,
    ) -> Result<(), RebuildError> {
        let reached = store::offsets(rebuilt).await?;
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
}

/// Both sides of a comparison.
struct Pair<'a> {
    live: &'a mut PgConnection,
    rebuilt: &'a mut PgConnection,
    bounds: &'a Bounds,
}

impl Pair<'_> {
    /// Compares a table by these sums, and row by row in the buckets that differ.
    async fn compare(
        &mut self,
        table: &Table,
        compared: &TableComparison,
        (live_sums, rebuilt_sums): (Sums, Sums),
        report: &mut Report,
    ) -> Result<(), RebuildError> {
        let count = |sums: &Sums| u64::try_from(sums.values().map(|(rows, _)| rows).sum::<i64>()).unwrap_or_default();
        let mut found =
            TableReport { table: table.name, live: count(&live_sums), rebuilt: count(&rebuilt_sums), differences: 0 };
        let buckets = (0..).take_while(|bucket| i64::from(*bucket) < BUCKETS);
        let differing: Vec<i32> = buckets.filter(|bucket| live_sums.get(bucket) != rebuilt_sums.get(bucket)).collect();
        if !differing.is_empty() {
            let statement = rows_statement(compared.relation(table.name), compared);
            let mut live_groups = Groups::new(self.live, &statement, &differing, self.bounds);
            let mut rebuilt_groups = Groups::new(self.rebuilt, &statement, &differing, self.bounds);
            let (mut left, mut right) = (live_groups.next().await?, rebuilt_groups.next().await?);
            // Both sides are sorted by key: a smaller key is missing on the other side.
            while left.is_some() || right.is_some() {
                let (take_left, take_right) = match (&left, &right) {
                    (Some(a), Some(b)) => (a.key <= b.key, b.key <= a.key),
                    (a, b) => (a.is_some(), b.is_some()),
                };
                let a = if take_left { std::mem::replace(&mut left, live_groups.next().await?) } else { None };
                let b = if take_right { std::mem::replace(&mut right, rebuilt_groups.next().await?) } else { None };
                if let Some(difference) = differences(table.name, compared.rule, a, b) {
                    found.differences += 1;
                    report.add(difference);
                }
            }
        }
        report.tables.push(found);
        Ok(())
    }
}

/// Bounds of the compared rows of `events`: partitions and end offsets.
#[derive(Default)]
struct Bounds {
    topic_ids: Vec<i16>,
    partitions: Vec<i32>,
    ends: Vec<i64>,
}

impl Bounds {
    /// The consumers' offsets, and all rows of partitions without a consumer offset. Partitions that appeared after the
    /// snapshot are left out.
    fn of(target: &Offsets, partitions: &[AuditedPartition]) -> Self {
        let mut ends: BTreeMap<(i16, i32), i64> =
            partitions.iter().map(|partition| ((partition.topic_id, partition.partition), i64::MAX)).collect();
        ends.extend(target.iter().map(|((_, topic_id, partition), end)| ((*topic_id, *partition), *end)));
        let mut bounds = Self::default();
        for ((topic_id, partition), end) in ends {
            bounds.topic_ids.push(topic_id);
            bounds.partitions.push(partition);
            bounds.ends.push(end);
        }
        bounds
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

/// SQL for the key of a row as one text. Ids never contain the separator, a control character.
fn key(compared: &TableComparison) -> String {
    let parts: Vec<String> = compared.key.iter().map(|column| format!("t.{column}::text")).collect();
    format!("concat_ws(E'\\x1f', {}) COLLATE \"C\"", parts.join(", "))
}

/// SQL for the compared rows of `from`, as keys and texts; rows of `events` only within the bounds `$1` to `$3`.
fn rows_within(from: &str, compared: &TableComparison) -> String {
    let within = match compared.rule {
        Rule::Row => "$1::smallint[] IS NOT NULL AND $2::integer[] IS NOT NULL AND $3::bigint[] IS NOT NULL",
        Rule::Records => {
            "EXISTS (
                 SELECT FROM unnest($1::smallint[], $2::integer[], $3::bigint[]) AS b (topic_id, partition, past)
                 WHERE b.topic_id = t.topic_id AND b.partition = t.partition AND t.record_offset < b.past)"
        }
    };
    format!(
        "SELECT {key} AS k, {row} AS r FROM {from} t WHERE {only} AND {within}",
        key = key(compared),
        row = compared.row("t"),
        only = compared.only,
    )
}

fn sums_statement(from: &str, compared: &TableComparison) -> String {
    format!(
        "-- rebuild_sums
         SELECT (hashtextextended(k, 0) & {mask})::integer, count(*), sum(hashtextextended(r, 0))::text
         FROM ({rows}) q GROUP BY 1",
        mask = BUCKETS - 1,
        rows = rows_within(from, compared),
    )
}

fn rows_statement(table: &str, compared: &TableComparison) -> String {
    format!(
        "-- rebuild_rows
         SELECT k, r FROM ({rows}) q WHERE (hashtextextended(k, 0) & {mask})::integer = ANY($4) ORDER BY k, r",
        mask = BUCKETS - 1,
        rows = rows_within(table, compared),
    )
}

type BucketSum = (i32, i64, String);

/// Computes the sums of a whole table.
async fn sums(connection: &mut PgConnection, table: &str, compared: &TableComparison) -> Result<Sums, Error> {
    let bounds = Bounds::default();
    let rows = sqlx::query_as::<_, BucketSum>(AssertSqlSafe(sums_statement(table, compared)))
        .bind(&bounds.topic_ids)
        .bind(&bounds.partitions)
        .bind(&bounds.ends)
        .fetch_all(connection)
        .await?;
    let mut sums = Sums::new();
    add_up(&mut sums, rows)?;
    Ok(sums)
}

/// Computes the sums of `events` in parts. A row that is updated meanwhile may be counted twice or not at all; then the sums
/// differ, and the rows are compared.
async fn sums_in_parts(
    connection: &mut PgConnection,
    table: &Table,
    compared: &TableComparison,
    bounds: &Bounds,
) -> Result<Sums, Error> {
    let part = format!(
        "(SELECT * FROM {} WHERE row_location >= $4::text::tid AND row_location < $5::text::tid)",
        compared.relation(table.name)
    );
    let statement = sums_statement(&part, compared);
    let mut sums = Sums::new();
    let pages = ledger::event_pages(connection).await?;
    for page in (0..pages).step_by(usize::try_from(PART_PAGES).unwrap_or(usize::MAX)) {
        let rows = sqlx::query_as::<_, BucketSum>(AssertSqlSafe(statement.clone()))
            .bind(&bounds.topic_ids)
            .bind(&bounds.partitions)
            .bind(&bounds.ends)
            .bind(ledger::first_row_of(page))
            .bind(ledger::first_row_of(page + PART_PAGES))
            .fetch_all(&mut *connection)
            .await?;
        add_up(&mut sums, rows)?;
    }
    Ok(sums)
}

fn add_up(sums: &mut Sums, rows: Vec<BucketSum>) -> Result<(), Error> {
    for (bucket, count, sum) in rows {
        let sum: i128 = sum.parse().map_err(|_| Error::Inconsistent {
            table: "a sum of hashes",
            id: bucket.to_string(),
            reason: format!("{sum} is not an integer"),
        })?;
        let total = sums.entry(bucket).or_default();
        total.0 += count;
        total.1 += sum;
    }
    Ok(())
}

/// A stream of rows grouped by key; only one group is held in memory.
struct Groups<'a> {
    rows: futures::stream::BoxStream<'a, Result<(String, String), sqlx::Error>>,
    /// The first row of the next group.
    ahead: Option<(String, String)>,
}

impl<'a> Groups<'a> {
    fn new(connection: &'a mut PgConnection, statement: &str, buckets: &[i32], bounds: &Bounds) -> Self {
        let query = sqlx::query_as(AssertSqlSafe(statement.to_owned()))
            .bind(bounds.topic_ids.clone())
            .bind(bounds.partitions.clone())
            .bind(bounds.ends.clone())
            .bind(buckets.to_vec());
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
