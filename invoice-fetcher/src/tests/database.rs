//! A separate database per test, on a PostgreSQL that the tests of this process share.

use std::sync::{Arc, Weak};

use riverlock_ledger::{PostgresConfig, postgres::migrate};
use riverlock_runtime::Secret;
use riverlock_sandbox::stack;
use sqlx::{AssertSqlSafe, Executor, PgPool};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::queue::Queue;

/// A PostgreSQL server that runs while a test uses it.
struct Server {
    postgres: stack::Postgres,
    _folder: tempfile::TempDir,
}

/// A migrated database. It is removed with the server.
pub(super) struct Database {
    pub(super) config: PostgresConfig,
    pub(super) pool: PgPool,
    _server: Option<Arc<Server>>,
}

impl Database {
    pub(super) async fn create() -> Self {
        static SHARED: Mutex<Weak<Server>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        let server = match shared.upgrade() {
            Some(server) => server,
            None => {
                let folder = stack::temporary_dir().unwrap();
                let port = stack::ports::free_port().unwrap();
                let postgres = stack::Postgres::start(&folder.path().join("postgres"), port).await.unwrap();
                let server = Arc::new(Server { postgres, _folder: folder });
                *shared = Arc::downgrade(&server);
                server
            }
        };
        let name = format!("test_{}", Uuid::new_v4().simple());
        let mut admin = config(server.postgres.url()).connect().await.unwrap();
        admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
        drop(shared);
        let config = config(server.postgres.url_of(&name));
        migrate(&mut config.connect().await.unwrap()).await.unwrap();
        let pool = config.pool().unwrap();
        Self { config, pool, _server: Some(server) }
    }

    /// The queue in this database.
    pub(super) fn queue(&self) -> Queue {
        Queue::new(crate::queue::database::Database::new(&self.config))
    }

    /// The database of the parent process.
    pub(super) fn at(url: &str) -> Self {
        let config = config(url.to_owned());
        let pool = config.pool().unwrap();
        Self { config, pool, _server: None }
    }
}

fn config(url: String) -> PostgresConfig {
    PostgresConfig { url: Secret::new(url), ..PostgresConfig::default() }
}
