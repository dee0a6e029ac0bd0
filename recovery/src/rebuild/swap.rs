//! Swaps the rebuilt tables for the live ones.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rdkafka::consumer::Consumer as _;
use riverlock_runtime::{ConsumerGuard, kafka::REQUEST_TIMEOUT};
use sqlx::{Acquire as _, PgConnection};

use super::{
    Rebuild, RebuildError, shadow, store,
    tables::{self, Class, Table},
};
use riverlock_ledger::{
    Error,
    alive::{session_of, while_alive},
    postgres::{self, Lock, TRANSACTION_LIMIT, bounded},
};

/// How long to wait for the sessions of stopped services to end.
const SESSIONS_WAIT: Duration = Duration::from_secs(5);
/// How much longer than its session timeout a killed consumer may remain a member of its group.
const MEMBERS_WAIT: Duration = Duration::from_secs(15);
/// Time between two checks whether everything has stopped.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long the swap waits for a lock. If that is not enough, something is using the live tables.
const LOCK_TIMEOUT: &str = "10s";

/// Who swaps the tables and why; stored with the swap.
#[derive(Clone, Debug)]
pub struct Reason {
    /// The operator.
    pub by: String,
    /// The reason.
    pub why: String,
}

/// The former live tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerTables {
    /// Their schema.
    pub schema: String,
    /// Messages that only the rebuilt tables have; the relay publishes them when it is started.
    pub messages: u64,
}

impl Rebuild {
    /// Checks that no service uses the live tables, and keeps relays from starting.
    ///
    /// # Errors
    /// When a service does, or Kafka or PostgreSQL does not answer.
    pub async fn ensure_stopped(&mut self) -> Result<(), RebuildError> {
        let started = Instant::now();
        loop {
            let sessions = bounded(TRANSACTION_LIMIT, postgres::other_sessions(&mut self.guard)).await?;
            if !sessions.is_empty() && started.elapsed() > SESSIONS_WAIT {
                return Err(RebuildError::Running(format!("sessions in PostgreSQL: {}", sessions.join(", "))));
            }
            let members = self.members().await?;
            if members > 0 && started.elapsed() > self.kafka.session_timeout + MEMBERS_WAIT {
                return Err(RebuildError::Running(format!("Kafka has {members} members in the consumer groups")));
            }
            if sessions.is_empty() && members == 0 {
                break;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        for lock in [Lock::Messages, Lock::DeadLetters] {
            if !bounded(TRANSACTION_LIMIT, postgres::try_lock(&mut self.guard, lock)).await? {
                return Err(RebuildError::Running("a relay is publishing from the live tables".to_owned()));
            }
        }
        Ok(())
    }

    /// Number of group members in Kafka, including those whose session has not timed out yet.
    async fn members(&self) -> Result<usize, RebuildError> {
        let kafka = self.kafka.clone();
        let groups: Vec<String> = self.consumers.iter().map(|(name, _)| kafka.group(name)).collect();
        let count = move || {
            let consumer = ConsumerGuard::create(&kafka.client())?;
            let mut members = 0;
            for group in groups {
                let list = consumer.fetch_group_list(Some(&group), REQUEST_TIMEOUT)?;
                members += list.groups().iter().map(|group| group.members().len()).sum::<usize>();
            }
            Ok(members)
        };
        tokio::task::spawn_blocking(count).await.unwrap_or(Err(RebuildError::Panicked))
    }

    /// Makes the rebuilt tables durable and updates PostgreSQL's statistics. Takes long, but does not affect live
    /// traffic.
    pub async fn finish(&self) -> Result<(), RebuildError> {
        let mut connection = shadow::connect(&self.shadow).await?;
        let session = session_of(&self.shadow, &mut connection).await?;
        let work = async {
            self.set_logged(&mut connection, true).await?;
            for table in tables::known(&mut connection, &self.shadow_schema).await? {
                store::run(&mut connection, format!("-- table_analyze\nANALYZE {}", table.name)).await?;
            }
            Ok(())
        };
        while_alive(&self.live, &[session], work).await
    }

    /// Swaps the tables in one transaction. Returns `None` if the live consumers have advanced: catch up and try again.
    ///
    /// # Errors
    /// When PostgreSQL fails, or the live tables are locked.
    pub async fn swap(&mut self, reason: &Reason, now: DateTime<Utc>) -> Result<Option<FormerTables>, RebuildError> {
        let postgres = self.live.clone();
        let session = session_of(&postgres, &mut self.guard).await?;
        while_alive(&postgres, &[session], self.swap_once(reason, now)).await
    }

    async fn swap_once(&mut self, reason: &Reason, now: DateTime<Utc>) -> Result<Option<FormerTables>, RebuildError> {
        let (live, rebuilt) = (self.live_schema.clone(), self.shadow_schema.clone());
        let kept = format!("riverlock_before_{}", now.format("%Y%m%d_%H%M%S"));
        let mut transaction = self.guard.begin().await?;
        let locked = tables::known(&mut transaction, &live).await?;
        let locked: Vec<String> = locked.iter().map(|table| format!("{live}.{}", table.name)).collect();
        store::run(&mut transaction, format!("-- swap_lock_timeout\nSET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
            .await?;
        let lock = format!("-- swap_lock\nLOCK TABLE {} IN ACCESS EXCLUSIVE MODE", locked.join(", "));
        store::run(&mut transaction, lock).await?;
        if !are_at_same_offsets(&mut transaction, &live, &rebuilt, &self.consumers).await? {
            return Ok(None);
        }
        let messages = merge(&mut transaction, &live, &rebuilt).await?;
        update_dead_letters(&mut transaction, &rebuilt, reason, now).await?;
        for statement in store::grants(&mut transaction, &live, &rebuilt).await? {
            store::run(&mut transaction, statement).await?;
        }
        let comment = store::schema_comment(&mut transaction, &live).await?.flatten();
        for statement in [
            format!("-- swap_keep\nALTER SCHEMA {live} RENAME TO {kept}"),
            format!("-- swap_keep_comment\nCOMMENT ON SCHEMA {kept} IS '{}live until {now}'", shadow::KEPT),
            format!("-- swap_rename\nALTER SCHEMA {rebuilt} RENAME TO {live}"),
            format!("-- swap_comment\nCOMMENT ON SCHEMA {live} IS {}", literal(comment.as_deref())),
        ] {
            store::run(&mut transaction, statement).await?;
        }
        sqlx::query!(
            "-- rebuilds_add
             INSERT INTO rebuilds (swapped_at, swapped_by, reason, kept_schema) VALUES ($1, $2, $3, $4)",
            now,
            reason.by,
            reason.why,
            kept
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Some(FormerTables { schema: kept, messages }))
    }
}

/// Whether the consumers' offsets are the same in both schemas.
async fn are_at_same_offsets(
    connection: &mut PgConnection,
    live: &str,
    rebuilt: &str,
    consumers: &[(&'static str, Vec<String>)],
) -> Result<bool, Error> {
    let names: Vec<&str> = consumers.iter().map(|(name, _)| *name).collect();
    let statement = format!(
        "-- swap_offsets
         SELECT count(*) FROM {live}.consumer_offsets l
         LEFT JOIN {rebuilt}.consumer_offsets r USING (consumer, topic_id, partition)
         WHERE consumer = ANY($1) AND l.next_offset IS DISTINCT FROM r.next_offset"
    );
    let differing: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(statement)).bind(names).fetch_one(connection).await?;
    Ok(differing == 0)
}

/// Copies into the rebuilt tables what must not be recomputed. Returns the number of messages that only the rebuild
/// has.
async fn merge(connection: &mut PgConnection, live: &str, rebuilt: &str) -> Result<u64, Error> {
    let tables = tables::known(connection, rebuilt).await?;
    for table in &tables {
        let known = match table.class {
            Class::LiveWins { key } => {
                format!("SELECT FROM {live}.{} l WHERE {}", table.name, equal(key, "l", "r"))
            }
            Class::Outbox => format!(
                "SELECT FROM {live}.orders l WHERE {} AND l.fired::jsonb ? (r.kind || substr(':', 1, length(r.effect_key)) \
                 || r.effect_key)",
                equal(&["order_id", "live_mode"], "l", "r")
            ),
            Class::Derived | Class::RebuiltWins { .. } | Class::Carried | Class::Reset => continue,
        };
        let only = format!(
            "-- swap_only_rebuilt
             CREATE TEMPORARY TABLE swap_{name} ON COMMIT DROP AS SELECT r.* FROM {rebuilt}.{name} r
             WHERE NOT EXISTS ({known})",
            name = table.name
        );
        store::run(connection, only).await?;
    }
    let replaced = tables.iter().filter(|table| !matches!(table.class, Class::Derived | Class::RebuiltWins { .. }));
    let replaced: Vec<String> = replaced.map(|table| format!("{rebuilt}.{}", table.name)).collect();
    store::run(connection, format!("-- swap_empty\nTRUNCATE {}", replaced.join(", "))).await?;
    let mut messages = 0;
    for table in &tables {
        let columns = store::columns(connection, rebuilt, table.name).await?.join(", ");
        let copy = format!(
            "-- swap_carry
             INSERT INTO {rebuilt}.{name} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {live}.{name}",
            name = table.name
        );
        match table.class {
            Class::Reset => {}
            Class::Derived => keep_history(connection, table, live, rebuilt).await?,
            Class::RebuiltWins { key } => {
                store::run(connection, format!("{copy} ON CONFLICT ({}) DO NOTHING", key.join(", "))).await?;
            }
            Class::Carried => {
                store::run(connection, copy).await?;
                continue_numbering(connection, table, live, rebuilt).await?;
            }
            Class::LiveWins { .. } => {
                store::run(connection, copy).await?;
                continue_numbering(connection, table, live, rebuilt).await?;
                add_only_rebuilt(connection, table, None, rebuilt).await?;
            }
            Class::Outbox => {
                store::run(connection, copy).await?;
                continue_numbering(connection, table, live, rebuilt).await?;
                messages = add_only_rebuilt(connection, table, Some("message_id"), rebuilt).await?;
            }
        }
    }
    Ok(messages)
}

/// Adds the rows that only the rebuild has. Numbered rows get new numbers after all existing ones, in their order.
async fn add_only_rebuilt(
    connection: &mut PgConnection,
    table: &Table,
    number: Option<&str>,
    rebuilt: &str,
) -> Result<u64, Error> {
    let mut columns = store::columns(connection, rebuilt, table.name).await?;
    columns.retain(|column| number != Some(column));
    let (name, columns) = (table.name, columns.join(", "));
    let order = number.map(|column| format!(" ORDER BY {column}")).unwrap_or_default();
    let add = format!("-- swap_add\nINSERT INTO {rebuilt}.{name} ({columns}) SELECT {columns} FROM swap_{name}{order}");
    store::run(connection, add).await
}

/// Sets the sequences of identity columns to continue after the numbers that were given to live rows, whether or not they
/// still exist.
async fn continue_numbering(
    connection: &mut PgConnection,
    table: &Table,
    live: &str,
    rebuilt: &str,
) -> Result<(), Error> {
    for column in store::identities(connection, rebuilt, table.name).await? {
        let sequence = |schema: &str| format!("pg_get_serial_sequence('{schema}.{}', '{column}')", table.name);
        let next = format!(
            "-- swap_number
             SELECT setval({}, pg_sequence_last_value({}::regclass)) WHERE pg_sequence_last_value({}::regclass) IS NOT NULL",
            sequence(rebuilt),
            sequence(live),
            sequence(live),
        );
        store::run(connection, next).await?;
    }
    Ok(())
}

/// A row that is unchanged keeps its version and times; a changed one gets the next version. So a version that was read
/// once never has other content. What has fired stays so, with its time.
async fn keep_history(connection: &mut PgConnection, table: &Table, live: &str, rebuilt: &str) -> Result<(), Error> {
    let Some(compared) = table.compared.filter(|_| table.name == "orders") else { return Ok(()) };
    let same = format!("{} = {}", compared.row("l"), compared.row("r"));
    let statement = format!(
        "-- swap_history
         UPDATE {rebuilt}.orders r
         SET first_seen_at = least(l.first_seen_at, r.first_seen_at),
             version = CASE WHEN {same} THEN l.version ELSE greatest(l.version + 1, r.version) END,
             changed_at = CASE WHEN {same} THEN l.changed_at ELSE r.changed_at END,
             fired = (SELECT coalesce(json_object_agg(f.key, f.value ORDER BY side, number), '{{}}') FROM (
                 SELECT 1 AS side, * FROM json_each(l.fired) WITH ORDINALITY AS f (key, value, number)
                 UNION ALL
                 SELECT 2, * FROM json_each(r.fired) WITH ORDINALITY AS f (key, value, number)
                 WHERE NOT l.fired::jsonb ? key
             ) f)
         FROM {live}.orders l WHERE {joined}",
        joined = equal(compared.key, "l", "r"),
    );
    store::run(connection, statement).await?;
    Ok(())
}

/// Sets the state of dead letters by the rebuilt outcome of their records: `redriven` if the record has another outcome
/// than `dead`, and `open` if it is dead again.
async fn update_dead_letters(
    connection: &mut PgConnection,
    rebuilt: &str,
    reason: &Reason,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    // The column `state` was added by a later migration.
    if !store::columns(connection, rebuilt, "dead_letters").await?.iter().any(|column| column == "state") {
        return Ok(());
    }
    let statement = format!(
        "-- swap_letters
         WITH settled AS (
             SELECT d.topic_id, d.partition, d.record_offset, d.state, d.reason, d.detail, e.outcome, e.reason AS new_reason
             FROM {rebuilt}.dead_letters d JOIN {rebuilt}.event_records e USING (topic_id, partition, record_offset)
             WHERE (d.state = 'open' AND e.outcome <> 'dead') OR (d.state = 'redriven' AND e.outcome = 'dead')
         ), noted AS (
             INSERT INTO {rebuilt}.dead_letter_actions
                 (topic_id, partition, record_offset, action, acted_at, acted_by, why, outcome, reason, previous_state,
                  previous_reason, previous_detail)
             SELECT topic_id, partition, record_offset, 'redrive', $1, $2, $3, outcome, new_reason, state, reason, detail
             FROM settled
         )
         UPDATE {rebuilt}.dead_letters d SET state = CASE WHEN s.outcome = 'dead' THEN 'open' ELSE 'redriven' END
         FROM settled s
         WHERE (d.topic_id, d.partition, d.record_offset) = (s.topic_id, s.partition, s.record_offset)"
    );
    let why = format!("rebuild: {}", reason.why);
    sqlx::query(sqlx::AssertSqlSafe(statement)).bind(now).bind(&reason.by).bind(why).execute(&mut *connection).await?;
    // A version that reads a record in another way may find another event id.
    let keys = format!(
        "-- swap_letter_keys
         UPDATE {rebuilt}.dead_letters d SET event_key = e.event_key
         FROM {rebuilt}.events e
         WHERE (d.topic_id, d.partition, d.record_offset) = (e.topic_id, e.partition, e.record_offset)
           AND d.event_key <> e.event_key"
    );
    store::run(connection, keys).await?;
    Ok(())
}

fn equal(key: &[&str], left: &str, right: &str) -> String {
    let same: Vec<String> = key.iter().map(|column| format!("{left}.{column} = {right}.{column}")).collect();
    same.join(" AND ")
}

/// Formats a text as an SQL literal.
fn literal(text: Option<&str>) -> String {
    text.map_or_else(|| "NULL".to_owned(), |text| format!("'{}'", text.replace('\'', "''")))
}
