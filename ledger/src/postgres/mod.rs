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

/// The migrations. sqlx's own lock covers the whole database, so that installs in different schemas would block each
/// other; [`migrate`] takes a lock per schema instead.
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrations = sqlx::migrate!("./migrations");
    migrations.set_locking(false);
    migrations
});

/// Prefix of the application names of services and commands in PostgreSQL: `riverlock/<schema>/<task>`. Earlier
/// versions used only the prefix, in every schema.
pub(crate) const APPLICATION: &str = "riverlock";
/// How the server detects dead clients and releases their locks: after 15 s of silence it probes every 5 s, three
/// times; unacknowledged data may be outstanding for 30 s. Linux's defaults amount to more than two hours.
const KEEPALIVE: [(&str, &str); 4] = [
    ("tcp_keepalives_idle", "15"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "30000"),
];
/// How much longer than the server's statement timeout the client waits for an answer.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);
/// Longest wait for an answer if the server has no statement timeout.
const ANSWER_LIMIT_MAX: Duration = Duration::from_secs(24 * 3600);
/// Limit of a transaction of several statements, and of single statements where `postgres.statement_timeout` is not
/// available. Far longer than they may take: it only ends waiting on a connection that was cut.
pub const TRANSACTION_LIMIT: Duration = Duration::from_secs(600);
/// How long `migrate` waits for another session that is migrating the same schema.
const MIGRATE_WAIT: Duration = Duration::from_secs(600);
/// Time between two attempts to take the lock.
const MIGRATE_LOOK: Duration = Duration::from_secs(1);
/// Prefixes of the schemas that a rebuild creates: those it builds in, and those it keeps.
pub(crate) const RESERVED_SCHEMAS: [&str; 2] = ["riverlock_rebuild", "riverlock_before_"];
/// Longest name of a schema, in bytes: PostgreSQL truncates longer names.
const SCHEMA_BYTES_MAX: usize = 63;

/// The PostgreSQL database.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database`. Missing parts are taken from `PGPASSWORD` and the other `PG…`
    /// variables.
    #[schemars(example = &"postgres://riverlock:riverlock@127.0.0.1:5432/riverlock")]
    pub url: Secret,
    /// Schema of the tables; if it is not set, the first schema of the role's `search_path`.
    #[schemars(example = &"riverlock")]
    pub schema: Option<String>,
    /// Connections for everything except batches, which have their own.
    pub connections_max: u32,
    /// Longest duration of a connection attempt.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub connect_timeout: Duration,
    /// Longest duration of one statement on the server.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub statement_timeout: Duration,
    /// Longest wait of a statement for a lock.
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
    /// Checks the limits and the schema. The URL, which is a secret, is read and checked when connecting.
    ///
    /// # Errors
    /// When a limit is zero or the schema's name is invalid.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.connections_max == 0 {
            return Err(ConfigError::refused("postgres.connections_max", "must be at least 1"));
        }
        if let Some(schema) = &self.schema {
            if !is_schema_name(schema) {
                let reason =
                    "must consist of lower-case letters, digits and `_`, at most 63, and begin with a letter or `_`";
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

    /// The same database with another schema. Schemas of the role's `search_path` are not searched.
    #[must_use]
    pub fn in_schema(&self, schema: &str) -> Self {
        Self { schema: Some(schema.to_owned()), ..self.clone() }
    }

    /// Connection options. Timeouts are enforced by the server, because a statement that is cancelled on the client may
    /// continue there.
    ///
    /// # Errors
    /// When the URL cannot be read or parsed.
    pub fn options(&self) -> Result<PgConnectOptions, ConfigError> {
        let options = PgConnectOptions::from_str(self.url.read("postgres.url")?).map_err(|_| {
            // The error's own text may contain the URL, and with it the password.
            ConfigError::refused(
                "postgres.url",
                "is not a valid URL; expected postgres://user:password@host:port/database",
            )
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

    /// How long the client waits for the answer to a single statement: a little longer than the server's timeout. A
    /// server that is cut off never answers, and TCP alone notices after a quarter of an hour or not at all.
    #[must_use]
    pub fn answer_limit(&self) -> Duration {
        // For PostgreSQL, 0 means no limit.
        if self.statement_timeout.is_zero() { ANSWER_LIMIT_MAX } else { self.statement_timeout + ANSWER_MARGIN }
    }

    /// Opens a dedicated connection.
    ///
    /// # Errors
    /// When PostgreSQL does not accept it within `connect_timeout`.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        self.open(|options| options, None).await
    }

    /// Opens a dedicated connection for a task, which is named in PostgreSQL's list of sessions.
    ///
    /// # Errors
    /// When PostgreSQL does not accept it within `connect_timeout`.
    pub async fn connect_as(&self, task: &'static str) -> Result<PgConnection, sqlx::Error> {
        self.open(|options| options, Some(task)).await
    }

    /// Opens a dedicated connection with adjusted options. The schema is appended to the application name.
    ///
    /// # Errors
    /// When PostgreSQL does not accept it within `connect_timeout`.
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
        // The whole attempt is dropped on a timeout; no part of it is reused.
        let opened =
            tokio::time::timeout(self.connect_timeout, open).await.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut));
        let result = if opened.is_ok() { "ok" } else { "failed" };
        ::metrics::counter!(crate::metrics::POSTGRES_CONNECTIONS, "result" => result).increment(1);
        opened
    }

    /// Creates a pool whose connections are opened on demand.
    ///
    /// # Errors
    /// When the URL cannot be parsed.
    pub fn pool(&self) -> Result<PgPool, ConfigError> {
        let pool = PgPoolOptions::new().max_connections(self.connections_max).acquire_timeout(self.connect_timeout);
        let pool =
            pool.after_connect(|connection, _| Box::pin(async { name_session(connection, APPLICATION, None).await }));
        Ok(pool.connect_lazy_with(self.options()?))
    }
}

/// Names the session after its schema, so that the sessions of one install can be told from those of another in the
/// same database. Only the server knows the schema if the role's `search_path` decides it.
async fn name_session(connection: &mut PgConnection, kind: &str, task: Option<&str>) -> Result<(), sqlx::Error> {
    let task = task.map(|task| format!("/{task}")).unwrap_or_default();
    // PostgreSQL truncates names to 63 bytes, so a long schema name is replaced by its hash. `kind` and `task` are
    // constants.
    let statement = format!(
        "-- session_name
         SELECT set_config('application_name', '{kind}/' || CASE
             WHEN octet_length(current_schema()) > 32 THEN md5(current_schema())
             ELSE coalesce(current_schema(), '') END || '{task}', false)"
    );
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await.map(drop)
}

/// Limits how long to wait for PostgreSQL's answer. After a timeout the connection must be dropped.
///
/// # Errors
/// Errors of `work`, and [`Error::TimedOut`].
pub async fn bounded<T, E: From<Error>>(limit: Duration, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(Error::TimedOut(limit.as_secs()).into()))
}

/// Tasks that only one session of an install may do at a time. An install is a schema: another one in the same database
/// has its own locks.
#[derive(Clone, Copy, Debug)]
pub enum Lock<'a> {
    /// Publishing the outbox.
    Messages,
    /// Publishing dead letters.
    DeadLetters,
    /// Running the continuous audit.
    Audit,
    /// Rebuilding the tables.
    Rebuild,
    /// Applying the replay plan with this hash.
    Replay(&'a str),
    /// Migrating the tables.
    Migrate,
    /// Writing the events of this mode that were never delivered.
    Reconcile(&'a str),
    /// Checking the webhooks that are registered at Digital River.
    Webhooks,
    /// Reading shipments from Kafka.
    Shipments,
}

impl Lock<'_> {
    /// The lock's name; the same in every version, because different versions must exclude each other.
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
            Self::Shipments => "shipments".to_owned(),
        }
    }
}

/// Takes a lock of the session's schema until the session ends or calls [`unlock`]; returns `false` if another session
/// holds it.
///
/// # Errors
/// When PostgreSQL fails.
pub async fn try_lock(connection: &mut PgConnection, lock: Lock<'_>) -> Result<bool, Error> {
    let taken = sqlx::query_scalar!(
        r#"-- lock_try
           SELECT pg_try_advisory_lock(hashtextextended('riverlock/' || coalesce(current_schema(), '') || '/' || $1, 0))
               AS "taken!""#,
        lock.name()
    );
    Ok(taken.fetch_one(connection).await?)
}

/// Releases a lock that the session holds.
///
/// # Errors
/// When PostgreSQL fails.
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

/// Whether a schema name never needs quotes and is not reserved by PostgreSQL.
pub fn is_schema_name(name: &str) -> bool {
    let first = |c: char| c.is_ascii_lowercase() || c == '_';
    name.len() <= SCHEMA_BYTES_MAX
        && name.starts_with(first)
        && !name.starts_with("pg_")
        && name.chars().all(|c| first(c) || c.is_ascii_digit())
}

/// Migrates the tables to this version, if they are not yet. Waits while another session is migrating.
///
/// # Errors
/// When a migration fails, another session does not finish, or the database was migrated by a newer or an altered
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
    // A session that failed may be broken; closing it releases the lock as well.
    let unlocked = unlock(connection, Lock::Migrate).await;
    migrated.and_then(|()| unlocked.map_err(source))
}

/// Returns this version's migrations.
#[must_use]
pub fn migrations() -> &'static sqlx::migrate::Migrator {
    &MIGRATIONS
}

/// Counts this version's migrations that the database lacks.
///
/// # Errors
/// When PostgreSQL fails.
pub async fn migrations_missing(connection: &mut PgConnection) -> Result<usize, sqlx::Error> {
    let applied = migrations_applied(connection, "true").await?;
    Ok(MIGRATIONS.iter().filter(|migration| !applied.contains(&migration.version)).count())
}

/// Counts the database's migrations that this version does not know, because a newer version has changed the tables.
/// Migrations that only build an index are not counted; see [`crate::postgres::migrations`].
///
/// # Errors
/// When PostgreSQL fails.
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

/// Describes the other sessions of services and commands of this install: those of the same schema, and those of
/// versions that did not name their schema.
///
/// # Errors
/// When PostgreSQL fails.
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

/// Counts [`other_sessions`].
///
/// # Errors
/// When PostgreSQL fails.
pub async fn other_connections(connection: &mut PgConnection) -> Result<i64, Error> {
    Ok(i64::try_from(other_sessions(connection).await?.len()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_for_an_answer_is_limited() {
        let never = std::future::pending::<Result<(), Error>>();
        let error = bounded(Duration::from_millis(5), never).await.unwrap_err();
        assert!(error.is_timeout() && !error.leaves_connection_usable(), "{error}");
        assert_eq!(bounded(Duration::from_secs(60), async { Ok::<_, Error>(7) }).await.unwrap(), 7);
        let config = |statement_timeout| PostgresConfig { statement_timeout, ..PostgresConfig::default() };
        assert!(config(Duration::from_secs(30)).answer_limit() > Duration::from_secs(30));
        assert!(config(Duration::ZERO).answer_limit() > Duration::from_secs(3_600), "the server has no limit");
    }

    #[test]
    fn services_cannot_use_the_schema_of_a_rebuild() {
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
