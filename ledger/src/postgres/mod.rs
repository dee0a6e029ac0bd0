//! Connections to PostgreSQL.

pub mod cluster;
pub mod migrations;

use std::{str::FromStr, sync::LazyLock, time::Duration};

use riverlock_runtime::{ConfigError, Secret, config::DurationText};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::{
    AssertSqlSafe, ConnectOptions, PgConnection, PgPool,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::Error;

/// The tables, as a list of migrations that only grows. sqlx's own lock is one for the whole database, and installations in
/// different schemas would wait for each other; [`migrate`] takes one of the schema.
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrations = sqlx::migrate!("./migrations");
    migrations.set_locking(false);
    migrations
});

/// What the names of sessions of services and commands begin with in PostgreSQL: `riverlock/<schema>/<task>`.
/// Earlier versions called theirs just this, whatever their schema.
pub(crate) const APPLICATION: &str = "riverlock";
/// How the server finds out that a client is gone without a word, and with it frees its locks: after 15 s of silence it asks
/// every 5 s, three times, and what it sends may stay unconfirmed for 30 s. Linux's defaults are more than two hours.
const KEEPALIVE: [(&str, &str); 4] = [
    ("tcp_keepalives_idle", "15"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "30000"),
];
/// How much longer than the server works on a statement its answer is waited for.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);
/// How long an answer is waited for where the server may work on a statement for ever.
const ANSWER_LIMIT_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long a transaction of several statements is waited for, and single statements where `postgres.statement_timeout` is not at
/// hand. Far longer than they may take: this ends only what waits for an answer on a connection that was cut.
pub const TRANSACTION_LIMIT: Duration = Duration::from_secs(600);
/// How long `migrate` waits for another one in the same schema.
const MIGRATE_WAIT: Duration = Duration::from_secs(600);
/// How often it looks whether the other one is done.
const MIGRATE_LOOK: Duration = Duration::from_secs(1);
/// What the names of schemas begin with that rebuilding makes: those it builds in, and those it keeps.
pub(crate) const RESERVED_SCHEMAS: [&str; 2] = ["riverlock_rebuild", "riverlock_before_"];
/// Longest name of a schema, in bytes: PostgreSQL cuts longer ones off.
const SCHEMA_BYTES_MAX: usize = 63;

/// The database.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database`. What it leaves out is taken from `PGPASSWORD` and the other `PG…`
    /// variables.
    #[schemars(example = &"postgres://riverlock:riverlock@127.0.0.1:5432/riverlock")]
    pub url: Secret,
    /// Schema of the tables. Without one, the first schema of the role's `search_path`.
    #[schemars(example = &"riverlock")]
    pub schema: Option<String>,
    /// Connections for everything except batches, which have connections of their own.
    pub connections_max: u32,
    /// How long a connection attempt may take.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub connect_timeout: Duration,
    /// How long the server may work on one statement.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub statement_timeout: Duration,
    /// How long a statement may wait for a lock.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub lock_timeout: Duration,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            url: Secret::new("postgres://riverlock:riverlock@127.0.0.1:5432/riverlock"),
            schema: None,
            connections_max: 8,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(5),
        }
    }
}

impl PostgresConfig {
    /// Checks what goes together. The address, which is a secret, is read and checked by those who connect.
    ///
    /// # Errors
    /// When a limit is zero or the schema's name is none.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.connections_max == 0 {
            return Err(ConfigError::refused("postgres.connections_max", "must be at least 1"));
        }
        if let Some(schema) = &self.schema {
            if !is_schema_name(schema) {
                let reason = "must be lower-case letters, digits and `_`, at most 63, and begin with a letter or `_`";
                return Err(ConfigError::refused("postgres.schema", reason));
            }
            if let Some(prefix) = RESERVED_SCHEMAS.iter().find(|prefix| schema.starts_with(**prefix)) {
                let reason = format!(
                    "begins with {prefix}: such schemas belong to `riverlock rebuild`, and no service may use them"
                );
                return Err(ConfigError::refused("postgres.schema", reason));
            }
        }
        Ok(())
    }

    /// The same database, with the tables of another schema. Nothing of the schemas of the role's `search_path` is seen.
    #[must_use]
    pub fn in_schema(&self, schema: &str) -> Self {
        Self { schema: Some(schema.to_owned()), ..self.clone() }
    }

    /// How to connect. Limits are the server's, because a statement that is cancelled here may go on there.
    ///
    /// # Errors
    /// When the address cannot be read or understood.
    pub fn options(&self) -> Result<PgConnectOptions, ConfigError> {
        let options = PgConnectOptions::from_str(self.url.read("postgres.url")?).map_err(|_| {
            // The error's own text may repeat the address, and the address holds the password.
            ConfigError::refused("postgres.url", "is no address; expected postgres://user:password@host:port/database")
        })?;
        let options = match &self.schema {
            Some(schema) => options.options([("search_path", schema)]),
            None => options,
        };
        Ok(options
            .application_name(APPLICATION)
            .options(KEEPALIVE)
            .options([
                ("statement_timeout", self.statement_timeout.as_millis().to_string()),
                ("lock_timeout", self.lock_timeout.as_millis().to_string()),
                ("idle_in_transaction_session_timeout", "60000".to_owned()),
                ("timezone", "UTC".to_owned()),
            ])
            .log_slow_statements(tracing::log::LevelFilter::Warn, Duration::from_secs(5))
            .log_statements(tracing::log::LevelFilter::Trace))
    }

    /// How long a single statement's answer is waited for on this side: somewhat longer than the server works on it. A
    /// server that is cut off answers never, and TCP alone notices after a quarter of an hour, or not at all.
    #[must_use]
    pub fn answer_limit(&self) -> Duration {
        // For PostgreSQL, 0 means no limit.
        if self.statement_timeout.is_zero() { ANSWER_LIMIT_MAX } else { self.statement_timeout + ANSWER_MARGIN }
    }

    /// A connection of one's own.
    ///
    /// # Errors
    /// When PostgreSQL does not take it in time.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        self.open(|options| options, None).await
    }

    /// A connection of one's own, for a task that is named in PostgreSQL's list of sessions.
    ///
    /// # Errors
    /// When PostgreSQL does not take it in time.
    pub async fn connect_as(&self, task: &'static str) -> Result<PgConnection, sqlx::Error> {
        self.open(|options| options, Some(task)).await
    }

    /// A connection of one's own, with other options than usual. The schema is added to the application's name.
    ///
    /// # Errors
    /// When PostgreSQL does not take it in time.
    pub async fn connect_with(
        &self,
        adjust: impl FnOnce(PgConnectOptions) -> PgConnectOptions,
    ) -> Result<PgConnection, sqlx::Error> {
        self.open(adjust, None).await
    }

    async fn open(
        &self,
        adjust: impl FnOnce(PgConnectOptions) -> PgConnectOptions,
        task: Option<&'static str>,
    ) -> Result<PgConnection, sqlx::Error> {
        let options = adjust(self.options().map_err(|error| sqlx::Error::Configuration(error.into()))?);
        let open = async {
            let mut connection = options.connect().await?;
            let kind = options.get_application_name().unwrap_or(APPLICATION);
            name_session(&mut connection, kind, task).await?;
            Ok(connection)
        };
        // Given up as a whole when it takes too long: nothing is reused.
        tokio::time::timeout(self.connect_timeout, open).await.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut))
    }

    /// Connections to share, made when needed.
    ///
    /// # Errors
    /// When the address cannot be understood.
    pub fn pool(&self) -> Result<PgPool, ConfigError> {
        let pool = PgPoolOptions::new().max_connections(self.connections_max).acquire_timeout(self.connect_timeout);
        let pool =
            pool.after_connect(|connection, _| Box::pin(async { name_session(connection, APPLICATION, None).await }));
        Ok(pool.connect_lazy_with(self.options()?))
    }
}

/// Names the session after the schema that it works in: whoever looks for the sessions of one installation must not see those
/// of another in the same database. Only the server knows the schema where the role's `search_path` decides.
async fn name_session(connection: &mut PgConnection, kind: &str, task: Option<&str>) -> Result<(), sqlx::Error> {
    let task = task.map(|task| format!("/{task}")).unwrap_or_default();
    // PostgreSQL cuts names at 63 bytes, so a long schema is named by its hash. `kind` and `task` are constants.
    let statement = format!(
        "-- session_name
         SELECT set_config('application_name', '{kind}/' || CASE
             WHEN octet_length(current_schema()) > 32 THEN md5(current_schema())
             ELSE coalesce(current_schema(), '') END || '{task}', false)"
    );
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await.map(drop)
}

/// Waits for PostgreSQL's answer, but not for ever. On a connection that timed out nothing more may be asked: drop it.
///
/// # Errors
/// What `work` fails with, and [`Error::TimedOut`].
pub async fn bounded<T, E: From<Error>>(limit: Duration, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(Error::TimedOut(limit.as_secs()).into()))
}

/// What one session of an installation does at a time. An installation is a schema: another one in the same database has
/// locks of its own.
#[derive(Clone, Copy, Debug)]
pub enum Lock<'a> {
    /// Publishes the outbox.
    Messages,
    /// Publishes dead letters.
    DeadLetters,
    /// Makes a run of the running audit.
    Audit,
    /// Builds the tables again.
    Rebuild,
    /// Applies the replay plan with this hash.
    Replay(&'a str),
    /// Brings the tables to a version.
    Migrate,
    /// Writes the events of this mode that never came.
    Reconcile(&'a str),
    /// Watches the webhooks that are registered at Digital River.
    Webhooks,
}

impl Lock<'_> {
    /// The lock's name, the same in every version: two versions must not do at a time what one must not.
    fn name(self) -> String {
        match self {
            Self::Messages => "relay/messages".to_owned(),
            Self::DeadLetters => "relay/dead-letters".to_owned(),
            Self::Audit => "audit".to_owned(),
            Self::Rebuild => "rebuild".to_owned(),
            Self::Replay(plan) => format!("replay/{plan}"),
            Self::Migrate => "migrate".to_owned(),
            Self::Reconcile(mode) => format!("reconcile/{mode}"),
            Self::Webhooks => "webhooks".to_owned(),
        }
    }
}

/// Takes a lock of the session's schema, until the session ends or [`unlock`]s; `false` when another session has it.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn try_lock(connection: &mut PgConnection, lock: Lock<'_>) -> Result<bool, Error> {
    let taken = sqlx::query_scalar!(
        r#"-- lock_try
           SELECT pg_try_advisory_lock(hashtextextended('riverlock/' || coalesce(current_schema(), '') || '/' || $1, 0))
               AS "taken!""#,
        lock.name()
    );
    Ok(taken.fetch_one(connection).await?)
}

/// Gives back a lock that the session has.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn unlock(connection: &mut PgConnection, lock: Lock<'_>) -> Result<(), Error> {
    sqlx::query_scalar!(
        r#"-- lock_release
           SELECT pg_advisory_unlock(hashtextextended('riverlock/' || coalesce(current_schema(), '') || '/' || $1, 0))
               AS "had!""#,
        lock.name()
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

/// Whether a name needs no quotes wherever it stands, and is none of PostgreSQL's own.
pub fn is_schema_name(name: &str) -> bool {
    let first = |c: char| c.is_ascii_lowercase() || c == '_';
    name.len() <= SCHEMA_BYTES_MAX
        && name.starts_with(first)
        && !name.starts_with("pg_")
        && name.chars().all(|c| first(c) || c.is_ascii_digit())
}

/// Brings the tables to this version; nothing happens when they are there already. Waits while another session does so.
///
/// # Errors
/// When a migration fails, another session does not come to its end, or the database was migrated by a newer or an altered
/// version.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let source = |error: Error| MigrateError::Source(error.into());
    let begun = tokio::time::Instant::now();
    while !try_lock(connection, Lock::Migrate).await.map_err(source)? {
        if begun.elapsed() > MIGRATE_WAIT {
            return Err(source(Error::TimedOut(MIGRATE_WAIT.as_secs())));
        }
        tokio::time::sleep(MIGRATE_LOOK).await;
    }
    let migrated = MIGRATIONS.run(&mut *connection).await;
    // A session that failed may be broken, and its end gives the lock back as well.
    let unlocked = unlock(connection, Lock::Migrate).await;
    migrated.and_then(|()| unlocked.map_err(source))
}

/// This version's migrations.
#[must_use]
pub fn migrations() -> &'static sqlx::migrate::Migrator {
    &MIGRATIONS
}

/// How many of this version's migrations the database still lacks.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn migrations_missing(connection: &mut PgConnection) -> Result<usize, sqlx::Error> {
    let applied = migrations_applied(connection, "true").await?;
    Ok(MIGRATIONS.iter().filter(|migration| !applied.contains(&migration.version)).count())
}

/// How many of the database's migrations this version does not know: a newer version has changed the tables. One that only
/// builds an index does not count; see [`crate::postgres::migrations`].
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn migrations_unknown(connection: &mut PgConnection) -> Result<usize, sqlx::Error> {
    let applied = migrations_applied(connection, "description NOT LIKE 'index %'").await?;
    Ok(applied.into_iter().filter(|version| !MIGRATIONS.version_exists(*version)).count())
}

async fn migrations_applied(connection: &mut PgConnection, only: &'static str) -> Result<Vec<i64>, sqlx::Error> {
    let table = sqlx::query_scalar!(r#"SELECT to_regclass('_sqlx_migrations') IS NOT NULL AS "exists!""#);
    if !table.fetch_one(&mut *connection).await? {
        return Ok(Vec::new());
    }
    let statement = format!("SELECT version FROM _sqlx_migrations WHERE success AND {only}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(statement)).fetch_all(connection).await
}

/// The other sessions that services and commands of this installation have: those of the same schema, and those of versions
/// that did not say which schema is theirs. One text each, for people.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn other_sessions(connection: &mut PgConnection) -> Result<Vec<String>, Error> {
    let sessions = sqlx::query_scalar!(
        r#"-- sessions_of_others
           SELECT format('process %s (%s) from %s since %s', pid, application_name,
                         coalesce(host(client_addr), 'a local socket'), to_char(backend_start, 'YYYY-MM-DD HH24:MI:SS'))
               AS "session!"
           FROM pg_stat_activity
           WHERE datname = current_database() AND pid <> pg_backend_pid()
             AND split_part(application_name, '/', 1) = $1
             AND (application_name = $1
                  OR split_part(application_name, '/', 2) = split_part(current_setting('application_name'), '/', 2))
           ORDER BY backend_start"#,
        APPLICATION
    );
    Ok(sessions.fetch_all(connection).await?)
}

/// How many [`other_sessions`] there are.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn other_connections(connection: &mut PgConnection) -> Result<i64, Error> {
    Ok(i64::try_from(other_sessions(connection).await?.len()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_not_waited_for_for_ever() {
        let never = std::future::pending::<Result<(), Error>>();
        let error = bounded(Duration::from_millis(5), never).await.unwrap_err();
        assert!(error.is_timeout() && !error.leaves_connection_usable(), "{error}");
        assert_eq!(bounded(Duration::from_secs(60), async { Ok::<_, Error>(7) }).await.unwrap(), 7);
        let config = |statement_timeout| PostgresConfig { statement_timeout, ..PostgresConfig::default() };
        assert!(config(Duration::from_secs(30)).answer_limit() > Duration::from_secs(30));
        assert!(config(Duration::ZERO).answer_limit() > Duration::from_secs(3_600), "the server has no limit");
    }

    #[test]
    fn no_service_can_be_pointed_at_tables_that_are_being_built() {
        let config = |schema: &str| PostgresConfig::default().in_schema(schema);
        assert!(config("shop").validate().is_ok());
        for name in
            ["riverlock_rebuild", "riverlock_before_20260101", "Shop", "pg_temp", "", "a b", "1a", &"a".repeat(64)]
        {
            let error = config(name).validate().unwrap_err().to_string();
            assert!(error.contains("postgres.schema"), "{name}: {error}");
        }
    }
}
