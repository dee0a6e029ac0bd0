//! Migrates the tables to this version, with progress reports.
//!
//! There are two kinds of migrations. Most change tables in one transaction, and services of another version must not
//! run meanwhile. A migration whose file is called `NNNN_index_….sql` builds one index without blocking writers (`--
//! no-transaction`, `CREATE INDEX CONCURRENTLY`); services of the previous version may keep running.
//!
//! A migration may take as long as it needs: the session has no statement timeout. It waits for a lock only for
//! `postgres.lock_timeout`, because all other sessions queue behind a session that waits for a lock; then it is
//! retried.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde::Serialize;
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection,
    migrate::{Migrate as _, MigrateError, Migration, Migrator},
};

use crate::{
    Error, PostgresConfig,
    postgres::{TRANSACTION_LIMIT, bounded},
};

/// Attempts of a migration that does not get a lock.
const LOCK_ATTEMPTS: u32 = 60;
/// Wait before the next attempt, and between two checks whether another session is still migrating.
const AGAIN_WAIT: Duration = Duration::from_secs(2);
/// Longest wait for another session that is migrating.
const OTHER_WAIT: Duration = Duration::from_secs(3600);
/// Time between two progress reports.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// Prefix of the description of a migration that only builds an index.
const INDEX: &str = "index ";
/// SQLSTATE of a lock that was not granted in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// The tables could not be migrated to this version. Completed migrations stay.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// PostgreSQL failed or is unavailable.
    #[error(transparent)]
    Ledger(#[from] Error),
    /// A migration failed, or the database was migrated by a newer or an altered version.
    #[error("migration: {0}")]
    Migrate(#[from] MigrateError),
    /// Another session is migrating the tables.
    #[error("another `riverlock setup` has been running for more than {} s", OTHER_WAIT.as_secs())]
    Busy,
    /// Other sessions held the locks for too long.
    #[error(
        "migration {version} ({description}) did not get its locks in {LOCK_ATTEMPTS} attempts: sessions that hold them are \
         listed by `SELECT * FROM pg_locks JOIN pg_stat_activity USING (pid)`"
    )]
    Locked {
        /// Number of the migration.
        version: i64,
        /// Description of the migration.
        description: String,
    },
    /// An index could not be built.
    #[error("migration {0} left an index that is not valid; run it again")]
    Invalid(i64),
}

impl From<sqlx::Error> for MigrationError {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}

/// A migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// Number.
    pub version: i64,
    /// Description.
    pub description: String,
}

impl Item {
    fn of(migration: &Migration) -> Self {
        Self { version: migration.version, description: migration.description.to_string() }
    }

    /// Whether it only builds an index, so that services may keep running.
    #[must_use]
    pub fn is_index(&self) -> bool {
        self.description.starts_with(INDEX)
    }
}

/// Progress of [`run`].
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// Waiting for another session that is migrating.
    OtherSession,
    /// A migration begins.
    Begins(Item),
    /// It did not get a lock in time and will be retried.
    Locked(Item),
    /// It is running.
    Running {
        /// The migration.
        item: Item,
        /// Time since it began.
        elapsed: Duration,
        /// Progress in percent: of building an index, or of moving rows, which the session's name shows. `None` if it is
        /// unknown.
        percent: Option<f64>,
    },
    /// It is complete.
    Done {
        /// The migration.
        item: Item,
        /// Duration.
        elapsed: Duration,
    },
}

/// Returns the migrations of this version that the database lacks, in order.
///
/// # Errors
/// When PostgreSQL fails.
pub async fn pending(connection: &mut PgConnection, migrations: &Migrator) -> Result<Vec<Item>, Error> {
    let applied = bounded(TRANSACTION_LIMIT, applied(connection)).await?;
    let is_missing = |migration: &&Migration| !applied.contains(&migration.version);
    Ok(migrations.iter().filter(is_missing).map(Item::of).collect())
}

async fn applied(connection: &mut PgConnection) -> Result<Vec<i64>, Error> {
    let exists: bool =
        sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL").fetch_one(&mut *connection).await?;
    if !exists {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success").fetch_all(connection).await?)
}

/// Runs the migrations that the database lacks, and returns them. `tell` is called with every step.
///
/// # Errors
/// When a migration fails, does not get its locks, or the database was migrated by a newer or an altered version.
pub async fn run(
    postgres: &PostgresConfig,
    migrations: &Migrator,
    tell: &mut (dyn FnMut(Progress) + Send),
) -> Result<Vec<Item>, MigrationError> {
    let mut connection = postgres.connect_with(|options| options.options([("statement_timeout", "0")])).await?;
    let began = Instant::now();
    // Polled instead of waiting for the lock: `CREATE INDEX CONCURRENTLY` waits for every session with a running
    // statement.
    while !bounded(postgres.answer_limit(), try_lock(&mut connection)).await? {
        if began.elapsed() > OTHER_WAIT {
            return Err(MigrationError::Busy);
        }
        tell(Progress::OtherSession);
        tokio::time::sleep(AGAIN_WAIT).await;
    }
    let table = migrations.table_name.as_ref();
    connection.ensure_migrations_table(table).await?;
    if let Some(version) = connection.dirty_version(table).await? {
        return Err(MigrateError::Dirty(version).into());
    }
    let applied: HashMap<i64, _> =
        connection.list_applied_migrations(table).await?.into_iter().map(|one| (one.version, one.checksum)).collect();
    if let Some(unknown) = bounded(TRANSACTION_LIMIT, first_unknown(&mut connection, migrations)).await? {
        return Err(MigrateError::VersionMissing(unknown).into());
    }
    let mut done = Vec::new();
    for migration in migrations.iter() {
        match applied.get(&migration.version) {
            Some(checksum) if *checksum == migration.checksum => {}
            Some(_) => return Err(MigrateError::VersionMismatch(migration.version).into()),
            None => {
                let item = Item::of(migration);
                tell(Progress::Begins(item.clone()));
                let began = Instant::now();
                apply(postgres, &mut connection, table, migration, tell).await?;
                tell(Progress::Done { item: item.clone(), elapsed: began.elapsed() });
                done.push(item);
            }
        }
    }
    // Closed explicitly, so that the lock is released when this returns.
    connection.close().await?;
    Ok(done)
}

/// Returns the first migration of the database that this version does not know and that does more than build an index.
async fn first_unknown(connection: &mut PgConnection, migrations: &Migrator) -> Result<Option<i64>, Error> {
    let known: Vec<i64> = migrations.iter().map(|migration| migration.version).collect();
    let unknown = sqlx::query_scalar(
        "-- migrations_unknown
         SELECT version FROM _sqlx_migrations
         WHERE version <> ALL($1) AND description NOT LIKE 'index %' ORDER BY version LIMIT 1",
    );
    Ok(unknown.bind(known).fetch_optional(connection).await?)
}

/// Applies one migration, retrying while other sessions hold its locks.
async fn apply(
    postgres: &PostgresConfig,
    connection: &mut PgConnection,
    table: &str,
    migration: &Migration,
    tell: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), MigrationError> {
    // No session queues behind a concurrent index build, and a retry would start from scratch, so there is no lock
    // timeout.
    let lock_timeout = if migration.no_tx { Duration::ZERO } else { postgres.lock_timeout };
    sqlx::query("SELECT set_config('lock_timeout', $1, false)")
        .bind(lock_timeout.as_millis().to_string())
        .execute(&mut *connection)
        .await?;
    for _ in 0..LOCK_ATTEMPTS {
        if migration.no_tx {
            drop_invalid_indexes(connection, migration).await?;
        }
        match apply_once(postgres, connection, table, migration, tell).await {
            Err(MigrateError::ExecuteMigration(sqlx::Error::Database(error), _))
                if error.code().as_deref() == Some(LOCK_NOT_AVAILABLE) =>
            {
                tell(Progress::Locked(Item::of(migration)));
                tokio::time::sleep(AGAIN_WAIT).await;
            }
            result => {
                result?;
                let invalid = invalid_indexes(connection, migration).await?;
                return if invalid.is_empty() { Ok(()) } else { Err(MigrationError::Invalid(migration.version)) };
            }
        }
    }
    let Item { version, description } = Item::of(migration);
    Err(MigrationError::Locked { version, description })
}

/// Applies one migration and reports its progress every [`PROGRESS_INTERVAL`].
async fn apply_once(
    postgres: &PostgresConfig,
    connection: &mut PgConnection,
    table: &str,
    migration: &Migration,
    tell: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), MigrateError> {
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *connection).await?;
    let began = Instant::now();
    let mut work = connection.apply(table, migration);
    loop {
        match tokio::time::timeout(PROGRESS_INTERVAL, &mut work).await {
            Ok(result) => return result.map(drop),
            Err(_) => {
                // A failed progress query is ignored, but a lost session ends the migration.
                let percent = match percent_built(postgres, pid).await {
                    Err(error @ Error::SessionLost(_)) => return Err(MigrateError::Source(error.into())),
                    percent => percent.unwrap_or_default(),
                };
                tell(Progress::Running { item: Item::of(migration), elapsed: began.elapsed(), percent });
            }
        }
    }
}

/// Returns how much of an index the session has built, or how many rows it has moved, in percent, or
/// [`Error::SessionLost`] if the session no longer exists.
async fn percent_built(postgres: &PostgresConfig, pid: i32) -> Result<Option<f64>, Error> {
    let ask = async {
        let mut connection = postgres.connect().await?;
        let percent = sqlx::query_scalar(
            "-- migration_progress
             SELECT coalesce(100.0::double precision * p.blocks_done / nullif(p.blocks_total, 0),
                             substring(a.application_name FROM ' ([0-9]+) %$')::double precision)
             FROM pg_stat_activity a LEFT JOIN pg_stat_progress_create_index p USING (pid) WHERE a.pid = $1",
        );
        let percent: Option<Option<f64>> = percent.bind(pid).fetch_optional(&mut connection).await?;
        connection.close().await?;
        percent.ok_or(Error::SessionLost(pid))
    };
    bounded(postgres.answer_limit(), ask).await
}

/// Returns the invalid indexes that an interrupted attempt of the migration left behind.
async fn invalid_indexes(connection: &mut PgConnection, migration: &Migration) -> Result<Vec<String>, Error> {
    let names: Vec<String> = sqlx::query_scalar(
        "-- indexes_invalid
         SELECT quote_ident(c.relname) FROM pg_index i
         JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE NOT i.indisvalid AND n.nspname = current_schema()",
    )
    .fetch_all(connection)
    .await?;
    let sql = migration.sql.as_str();
    let is_named = |name: &String| sql.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == name);
    Ok(names.into_iter().filter(is_named).collect())
}

async fn drop_invalid_indexes(connection: &mut PgConnection, migration: &Migration) -> Result<(), Error> {
    for name in invalid_indexes(connection, migration).await? {
        sqlx::query(AssertSqlSafe(format!("-- index_drop\nDROP INDEX CONCURRENTLY IF EXISTS {name}")))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Takes the lock that allows one session at a time to migrate this schema, until the session ends.
async fn try_lock(connection: &mut PgConnection) -> Result<bool, Error> {
    let lock = sqlx::query_scalar(
        "-- migrations_lock
         SELECT pg_try_advisory_lock(hashtextextended('riverlock/' || coalesce(current_schema(), '') || '/migrate', 0))",
    );
    Ok(lock.fetch_one(connection).await?)
}
