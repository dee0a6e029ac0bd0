//! A database of one's own, on the server that the environment names.

use riverlock_ledger::{PostgresConfig, postgres::migrate};
use riverlock_runtime::Secret;
use sqlx::{Connection, Executor, PgConnection, PgPool};
use url::Url;
use uuid::Uuid;

/// Where the tests' server is: the address of a superuser.
const VARIABLE: &str = "RIVERLOCK_TEST_POSTGRES_URL";

/// A migrated database that is dropped at the end.
pub(super) struct Database {
    server: Url,
    name: String,
    pub(super) config: PostgresConfig,
    pub(super) pool: PgPool,
}

impl Database {
    #[expect(clippy::disallowed_methods, reason = "a test's setting")]
    pub(super) async fn create() -> Self {
        let server = std::env::var(VARIABLE).unwrap_or_else(|_| {
            panic!(
                "{VARIABLE} is not set: these tests need a PostgreSQL server, for example postgres://user@host/postgres"
            )
        });
        let server = Url::parse(&server).expect(VARIABLE);
        let name = format!("riverlock_test_{}", Uuid::new_v4().simple());
        run(&server, format!("CREATE DATABASE {name}")).await;
        let mut url = server.clone();
        url.set_path(&name);
        let config = PostgresConfig { url: Secret::new(url.as_str()), ..PostgresConfig::default() };
        migrate(&mut config.connect().await.unwrap()).await.unwrap();
        let pool = config.pool().unwrap();
        Self { server, name, config, pool }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, statement) = (self.server.clone(), format!("DROP DATABASE {} WITH (FORCE)", self.name));
        let dropped = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(run(&server, statement));
        });
        dropped.join().expect("the test's database can be dropped");
    }
}

async fn run(server: &Url, statement: String) {
    let mut connection = PgConnection::connect(server.as_str()).await.expect(VARIABLE);
    connection.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
}
