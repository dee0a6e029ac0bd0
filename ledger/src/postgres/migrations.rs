//! Brings the tables to this version, and says how far it is.
//!
//! Two kinds of migrations. Most change tables in one transaction, and services of another version must not run meanwhile. A
//! migration whose file is called `NNNN_index_….sql` builds one index without stopping writers (`-- no-transaction`,
//! `CREATE INDEX CONCURRENTLY`); services of the former version run on while and after it is built.
//!
//! A migration may take as long as it needs: the session has no statement timeout. Locks are waited for only as long as
//! `postgres.lock_timeout`, because everybody else waits behind a session that waits for a lock; then it is tried again.

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

/// How often a migration that did not get a lock is tried.
const LOCK_ATTEMPTS: u32 = 60;
/// How long to wait before it is tried again, and before it is asked again whether another session still migrates.
const AGAIN_WAIT: Duration = Duration::from_secs(2);
/// How long another session that migrates is waited for.
const OTHER_WAIT: Duration = Duration::from_secs(3600);
/// How often it is said how far a migration is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// What the description of a migration begins with that only builds an index.
const INDEX: &str = "index ";
/// SQLSTATE of a lock that was not granted in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// The tables could not be brought to this version. Migrations that were done stay done.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// PostgreSQL refused, or could not be reached.
    #[error(transparent)]
    Ledger(#[from] Error),
    /// A migration failed, or the database was migrated by a newer or an altered version.
    #[error("migration: {0}")]
    Migrate(#[from] MigrateError),
    /// Another session brings the tables to a version.
    #[error("another `riverlock setup` has been running for more than {} s", OTHER_WAIT.as_secs())]
    Busy,
    /// The locks were held too long by others.
    #[error(
        "migration {version} ({description}) did not get its locks in {LOCK_ATTEMPTS} attempts: sessions that hold them are \
         listed by `SELECT * FROM pg_locks JOIN pg_stat_activity USING (pid)`"
    )]
    Locked {
        /// Which migration.
        version: i64,
        /// What it does.
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
    /// Its number.
    pub version: i64,
    /// What it does.
    pub description: String,
}

impl Item {
    fn of(migration: &Migration) -> Self {
        Self { version: migration.version, description: migration.description.to_string() }
    }

    /// Whether it only builds an index, so that services may run meanwhile.
    #[must_use]
    pub fn is_index(&self) -> bool {
        self.description.starts_with(INDEX)
    }
}

/// What happens, for people who wait.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// Another session migrates; it is waited for.
    OtherSession,
    /// A migration begins.
    Begins(Item),
    /// It did not get a lock in time, and is tried again.
    Locked(Item),
    /// It goes on.
    Running {
        /// Which.
        item: Item,
        /// For how long.
        elapsed: Duration,
        /// How much of an index is built, in percent; `None` where PostgreSQL does not tell.
        percent: Option<f64>,
    },
    /// It is done.
    Done {
        /// Which.
        item: Item,
        /// How long it took.
        elapsed: Duration,
    },
}

/// The migrations of this version that the database lacks, in their order.
///
/// # Errors
/// When PostgreSQL cannot be asked.
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

/// Runs the migrations that the database lacks, and returns which those were. `tell` is told of every step.
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
    // Asked again and again, not waited for: `CREATE INDEX CONCURRENTLY` waits for every session that waits in a statement.
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
    // Closed in order, so that the lock is free when this returns.
    connection.close().await?;
    Ok(done)
}

/// The first of the database's migrations that this version does not know and that does more than build an index.
async fn first_unknown(connection: &mut PgConnection, migrations: &Migrator) -> Result<Option<i64>, Error> {
    let known: Vec<i64> = migrations.iter().map(|migration| migration.version).collect();
    let unknown = sqlx::query_scalar(
        "-- migrations_unknown
         SELECT version FROM _sqlx_migrations
         WHERE version <> ALL($1) AND description NOT LIKE 'index %' ORDER BY version LIMIT 1",
    );
    Ok(unknown.bind(known).fetch_optional(connection).await?)
}

/// Applies one migration, again and again while others hold its locks.
async fn apply(
    postgres: &PostgresConfig,
    connection: &mut PgConnection,
    table: &str,
    migration: &Migration,
    tell: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), MigrationError> {
    // While an index is built concurrently nobody waits for what it waits for, and a second attempt begins from nothing.
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

/// Applies one migration, and says every [`PROGRESS_INTERVAL`] how far it is.
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
                // That it is not known how far it is must not end it; that the session is gone must.
                let percent = match percent_built(postgres, pid).await {
                    Err(error @ Error::SessionLost(_)) => return Err(MigrateError::Source(error.into())),
                    percent => percent.unwrap_or_default(),
                };
                tell(Progress::Running { item: Item::of(migration), elapsed: began.elapsed(), percent });
            }
        }
    }
}

/// How much of an index the session has built; [`Error::SessionLost`] when PostgreSQL does not have the session any more.
async fn percent_built(postgres: &PostgresConfig, pid: i32) -> Result<Option<f64>, Error> {
    let ask = async {
        let mut connection = postgres.connect().await?;
        let percent = sqlx::query_scalar(
            "-- migration_progress
             SELECT 100.0::double precision * p.blocks_done / nullif(p.blocks_total, 0)
             FROM pg_stat_activity a LEFT JOIN pg_stat_progress_create_index p USING (pid) WHERE a.pid = $1",
        );
        let percent: Option<Option<f64>> = percent.bind(pid).fetch_optional(&mut connection).await?;
        connection.close().await?;
        percent.ok_or(Error::SessionLost(pid))
    };
    bounded(postgres.answer_limit(), ask).await
}

/// Indexes that the migration names and that an interrupted attempt left behind unfinished.
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

/// Makes this session the only one that migrates this schema, until it ends.
async fn try_lock(connection: &mut PgConnection) -> Result<bool, Error> {
    let lock = sqlx::query_scalar(
        "-- migrations_lock
         SELECT pg_try_advisory_lock(hashtextextended('riverlock/' || coalesce(current_schema(), '') || '/migrate', 0))",
    );
    Ok(lock.fetch_one(connection).await?)
}
