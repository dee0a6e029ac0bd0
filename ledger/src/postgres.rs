//! Connections to PostgreSQL.

use std::{str::FromStr, time::Duration};

use riverlock_runtime::{ConfigError, Secret};
use serde::{Deserialize, Serialize};
use sqlx::{
    ConnectOptions, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// The tables, as a list of migrations that only grows.
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../schemas/migrations");

/// What the services' sessions are called in PostgreSQL.
pub(crate) const APPLICATION: &str = "riverlock";
/// What the names of schemas begin with that rebuilding makes: those it builds in, and those it keeps.
pub(crate) const RESERVED_SCHEMAS: [&str; 2] = ["riverlock_rebuild", "riverlock_before_"];
/// Longest name of a schema, in bytes: PostgreSQL cuts longer ones off.
const SCHEMA_BYTES_MAX: usize = 63;

/// `[postgres]` of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database`.
    pub url: Secret,
    /// The schema that the tables are in; without one, the first of the role's own `search_path`.
    pub schema: Option<String>,
    /// Connections for everything that is not a batch; batches have connections of their own.
    pub connections_max: u32,
    /// How long a connection attempt may take.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long the server works on one statement.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// How long a statement waits for a lock.
    #[serde(with = "humantime_serde")]
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
            .options([
                ("statement_timeout", self.statement_timeout.as_millis().to_string()),
                ("lock_timeout", self.lock_timeout.as_millis().to_string()),
                ("idle_in_transaction_session_timeout", "60000".to_owned()),
                ("timezone", "UTC".to_owned()),
            ])
            .log_slow_statements(tracing::log::LevelFilter::Warn, Duration::from_secs(5))
            .log_statements(tracing::log::LevelFilter::Trace))
    }

    /// A connection of one's own.
    ///
    /// # Errors
    /// When PostgreSQL does not take it in time.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        self.connect_with(|options| options).await
    }

    /// A connection of one's own, with other options than usual.
    ///
    /// # Errors
    /// When PostgreSQL does not take it in time.
    pub async fn connect_with(
        &self,
        adjust: impl FnOnce(PgConnectOptions) -> PgConnectOptions,
    ) -> Result<PgConnection, sqlx::Error> {
        let options = adjust(self.options().map_err(|error| sqlx::Error::Configuration(error.into()))?);
        // Given up as a whole when it takes too long: nothing is reused.
        tokio::time::timeout(self.connect_timeout, options.connect())
            .await
            .unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut))
    }

    /// Connections to share, made when needed.
    ///
    /// # Errors
    /// When the address cannot be understood.
    pub fn pool(&self) -> Result<PgPool, ConfigError> {
        let pool = PgPoolOptions::new().max_connections(self.connections_max).acquire_timeout(self.connect_timeout);
        Ok(pool.connect_lazy_with(self.options()?))
    }
}

/// Whether a name needs no quotes wherever it stands, and is none of PostgreSQL's own.
pub(crate) fn is_schema_name(name: &str) -> bool {
    let first = |c: char| c.is_ascii_lowercase() || c == '_';
    name.len() <= SCHEMA_BYTES_MAX
        && name.starts_with(first)
        && !name.starts_with("pg_")
        && name.chars().all(|c| first(c) || c.is_ascii_digit())
}

/// Brings the tables to this version; nothing happens when they are there already.
///
/// # Errors
/// When a migration fails, or the database was migrated by a newer or an altered version.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), sqlx::migrate::MigrateError> {
    MIGRATIONS.run(connection).await
}

/// How many of this version's migrations the database still lacks.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn migrations_missing(connection: &mut PgConnection) -> Result<usize, sqlx::Error> {
    let applied = migrations_applied(connection).await?;
    Ok(MIGRATIONS.iter().filter(|migration| !applied.contains(&migration.version)).count())
}

/// How many of the database's migrations this version does not know: a newer version has changed the tables.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn migrations_unknown(connection: &mut PgConnection) -> Result<usize, sqlx::Error> {
    let applied = migrations_applied(connection).await?;
    Ok(applied.into_iter().filter(|version| !MIGRATIONS.version_exists(*version)).count())
}

async fn migrations_applied(connection: &mut PgConnection) -> Result<Vec<i64>, sqlx::Error> {
    let table = sqlx::query_scalar!(r#"SELECT to_regclass('_sqlx_migrations') IS NOT NULL AS "exists!""#);
    if !table.fetch_one(&mut *connection).await? {
        return Ok(Vec::new());
    }
    sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success").fetch_all(connection).await
}

/// How many other connections services and commands of Riverlock have to this database.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn other_connections(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "-- connections_of_others
         SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = $1 AND pid <> pg_backend_pid()",
    )
    .bind(APPLICATION)
    .fetch_one(connection)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

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
