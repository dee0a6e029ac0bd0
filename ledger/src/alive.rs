//! Detects that the session of a statement without a timeout is gone.
//!
//! Other statements have a limit, on the client and on the server ([`crate::postgres::bounded`]). A statement that builds an
//! index or compares whole tables has none, and the driver has no keepalive: if the connection is cut silently, by a host
//! that crashed or a firewall that dropped its state, the client would wait forever. The server does notice (see
//! `tcp_keepalives_idle`) and then no longer lists the session. So a second connection checks for the session periodically.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::{Instant, sleep};

use crate::{Error, PostgresConfig, postgres::bounded};

/// Time between two checks.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// How long the checks may fail before the sessions count as lost.
const UNKNOWN_MAX: Duration = Duration::from_secs(600);

/// Returns the process id of a connection's session in PostgreSQL.
///
/// # Errors
/// When PostgreSQL fails.
pub async fn session_of(postgres: &PostgresConfig, connection: &mut PgConnection) -> Result<i32, Error> {
    let pid = sqlx::query_scalar!(
        r#"-- session_pid
        SELECT pg_backend_pid() AS "pid!""#
    );
    bounded(postgres.answer_limit(), async { Ok(pid.fetch_one(connection).await?) }).await
}

/// Runs `work` as long as PostgreSQL has all of these sessions. After an error their connections must be dropped.
///
/// # Errors
/// Errors of `work`, and [`Error::SessionLost`].
pub async fn while_alive<T, E: From<Error>>(
    postgres: &PostgresConfig,
    sessions: &[i32],
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    watched(postgres, sessions, (LOOK_INTERVAL, UNKNOWN_MAX), work).await
}

/// Like [`while_alive`], with other times; for tests.
#[doc(hidden)]
pub async fn watched<T, E: From<Error>>(
    postgres: &PostgresConfig,
    sessions: &[i32],
    (interval, unknown_max): (Duration, Duration),
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let mut work = Box::pin(work);
    let mut known_at = Instant::now();
    loop {
        let look = async {
            sleep(interval).await;
            missing(postgres, sessions).await
        };
        let looked = tokio::select! {
            result = &mut work => return result,
            looked = look => looked,
        };
        match looked {
            Ok(None) => known_at = Instant::now(),
            Ok(Some(session)) => return Err(Error::SessionLost(session).into()),
            Err(error) if known_at.elapsed() >= unknown_max => return Err(error.into()),
            Err(error) => tracing::debug!(%error, "cannot check whether PostgreSQL still has the session: {error}"),
        }
    }
}

/// Returns one of the sessions that PostgreSQL no longer has.
async fn missing(postgres: &PostgresConfig, sessions: &[i32]) -> Result<Option<i32>, Error> {
    let mut connection = postgres.connect().await?;
    let missing = sqlx::query_scalar!(
        r#"-- sessions_missing
           SELECT pid AS "pid!" FROM unnest($1::integer[]) AS wanted (pid)
           WHERE pid NOT IN (SELECT a.pid FROM pg_stat_activity a) LIMIT 1"#,
        sessions
    );
    bounded(postgres.answer_limit(), async { Ok(missing.fetch_optional(&mut connection).await?) }).await
}
