//! Sessions with PostgreSQL that no statement can hold for ever.
//!
//! PostgreSQL ends a statement that takes too long itself, but cannot when the network has lost the connection without a
//! word: then nothing ever answers. So every use of a session has a limit on this side too, and a session whose use did not
//! end well is closed and never used again. `sqlx`'s own pool is not used, because it waits without a limit for an answer
//! when a connection is given back to it.

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

/// What the sessions are called in PostgreSQL's list.
const SESSION: &str = "invoices";

/// How long a session may be idle before it is tried before its use: a server that was restarted meanwhile has ended it.
const IDLE_TRUSTED: Duration = Duration::from_secs(1);

/// How long a session may be idle and be used again.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// How long an idle session may take to answer before another is opened in its place.
const TRY_MAX: Duration = Duration::from_secs(2);

/// Sessions that are shared. Cheap to clone; all clones are the same.
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

/// A session in use. One that is dropped without [`Session::give_back`] is closed.
struct Session {
    connection: PgConnection,
    _permit: OwnedSemaphorePermit,
}

impl Database {
    /// Sessions as the configuration says; none is opened yet.
    pub(crate) fn new(postgres: &PostgresConfig) -> Self {
        let permits = usize::try_from(postgres.connections_max).unwrap_or(Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Self(Arc::new(SessionPool { postgres: postgres.clone(), permits, idle: Mutex::default() }))
    }

    /// Does some work in a session, within the limit.
    ///
    /// # Errors
    /// What the work returns; [`Error::TimedOut`] when it takes too long, or [`Error::Sql`] when there is no session.
    pub(crate) async fn run<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut session = self.session().await?;
        let result = bounded(self.0.postgres.answer_limit(), work(&mut session.connection)).await;
        if result.as_ref().map_or_else(Error::leaves_connection_usable, |_| true) {
            session.give_back(&self.0);
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
        self.0.idle.lock().expect("no code panics while it holds the sessions").pop()
    }
}

impl Session {
    fn give_back(self, shared: &SessionPool) {
        let idle = Idle { connection: self.connection, since: Instant::now() };
        shared.idle.lock().expect("no code panics while it holds the sessions").push(idle);
    }
}
