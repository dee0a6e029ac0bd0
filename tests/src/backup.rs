//! Copies of databases, and restoring them under open connections.

use anyhow::Context as _;
use riverlock_ledger::PostgresConfig;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection, postgres::PgConnectOptions};

/// A copy of a database.
pub struct Backup {
    options: PgConnectOptions,
    of: String,
    copy: String,
}

impl Backup {
    /// Copies a database. Ends all connections to it.
    ///
    /// # Errors
    /// If PostgreSQL returns an error.
    pub async fn take(config: &PostgresConfig) -> anyhow::Result<Self> {
        let options = config.options()?;
        let of = options.get_database().context("the address names no database")?.to_owned();
        let backup = Self { options, of, copy: format!("backup_{:016x}", fastrand::u64(..)) };
        let mut admin = backup.admin().await?;
        throw_out(&mut admin, &backup.of).await?;
        run(&mut admin, format!("CREATE DATABASE {} TEMPLATE {}", backup.copy, backup.of)).await?;
        run(&mut admin, format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS true", backup.of)).await?;
        Ok(backup)
    }

    /// A connection to the copy.
    ///
    /// # Errors
    /// If PostgreSQL returns an error.
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        Ok(self.options.clone().database(&self.copy).connect().await?)
    }

    /// Replaces the database by the copy. Ends all connections to it; later changes are lost.
    ///
    /// # Errors
    /// If PostgreSQL returns an error.
    pub async fn restore(self) -> anyhow::Result<()> {
        let mut admin = self.admin().await?;
        for name in [&self.of, &self.copy] {
            throw_out(&mut admin, name).await?;
        }
        run(&mut admin, format!("DROP DATABASE {}", self.of)).await?;
        run(&mut admin, format!("ALTER DATABASE {} RENAME TO {}", self.copy, self.of)).await?;
        run(&mut admin, format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS true", self.of)).await
    }

    async fn admin(&self) -> anyhow::Result<PgConnection> {
        Ok(self.options.clone().database("postgres").connect().await?)
    }
}

/// Ends all connections to a database and rejects new ones.
async fn throw_out(admin: &mut PgConnection, name: &str) -> anyhow::Result<()> {
    run(admin, format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")).await?;
    sqlx::query("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1")
        .bind(name)
        .execute(admin)
        .await?;
    Ok(())
}

async fn run(admin: &mut PgConnection, statement: String) -> anyhow::Result<()> {
    sqlx::query(AssertSqlSafe(statement)).execute(admin).await?;
    Ok(())
}
