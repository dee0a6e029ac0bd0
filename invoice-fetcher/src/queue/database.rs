//! Pool of PostgreSQL sessions with a time limit for every use.
//!
//! PostgreSQL cancels statements that take too long, but if the network has silently dropped the connection, no response ever
//! arrives. So every use of a session has a time limit on this side too, and a session whose use failed is closed. `sqlx`'s
//! pool is not used, because it waits without a limit for a response when a connection is returned to it.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use riverlock_ledger::{Error, PostgresConfig, postgres::bounded};
use sqlx::{Connection as _, PgConnection};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// The sessions' `application_name`.
const SESSION: &str = "invoices";

/// Idle time after which a session is tested before its use, because the server may have been restarted.
const IDLE_TRUSTED: Duration = Duration::from_secs(1);

/// Idle time after which a session is not used again.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Time limit of the test of an idle session, after which a new one is opened.
const TRY_MAX: Duration = Duration::from_secs(2);

/// A shared pool of sessions. Clones share the pool.
#[derive(Clone)]
pub(crate) struct Database(Arc<SessionPool>);

struct SessionPool {
    postgres: PostgresConfig,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: PgConnection,
    since: Instant,
}

/// A session in use. It is closed on drop unless [`Session::put_back`] returns it to the pool.
struct Session {
    connection: PgConnection,
    _permit: OwnedSemaphorePermit,
}

impl Database {
    /// Creates a pool. Opens no session.
    pub(crate) fn new(postgres: &PostgresConfig) -> Self {
        let permits = usize::try_from(postgres.connections_max).unwrap_or(Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Self(Arc::new(SessionPool { postgres: postgres.clone(), permits, idle: Mutex::default() }))
    }

    /// Runs `work` in a session, with a time limit.
    ///
    /// # Errors
    /// The error of `work`; [`Error::TimedOut`] if it takes too long, or [`Error::Sql`] if no session can be opened.
    pub(crate) async fn run<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut session = self.session().await?;
        let result = bounded(self.0.postgres.answer_limit(), work(&mut session.connection)).await;
        if result.as_ref().map_or_else(Error::leaves_connection_usable, |_| true) {
            session.put_back(&self.0);
        }
        result
    }

    async fn session(&self) -> Result<Session, Error> {
        let permit = timeout(self.0.postgres.connect_timeout, Arc::clone(&self.0.permits).acquire_owned());
        let permit = permit.await.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
        while let Some(mut idle) = self.take_idle() {
            let idle_for = idle.since.elapsed();
            if idle_for > IDLE_MAX {
                continue;
            }
            if idle_for < IDLE_TRUSTED || matches!(timeout(TRY_MAX, idle.connection.ping()).await, Ok(Ok(()))) {
                return Ok(Session { connection: idle.connection, _permit: permit });
            }
        }
        Ok(Session { connection: self.0.postgres.connect_as(SESSION).await?, _permit: permit })
    }

    fn take_idle(&self) -> Option<Idle> {
        self.0.idle.lock().expect("no code panics while it holds the lock").pop()
    }
}

impl Session {
    fn put_back(self, shared: &SessionPool) {
        let idle = Idle { connection: self.connection, since: Instant::now() };
        shared.idle.lock().expect("no code panics while it holds the lock").push(idle);
    }
}
