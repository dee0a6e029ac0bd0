//! PostgreSQL connections that stay open and carry no more answers: waiting commands detect them.

use std::time::Duration;

use riverlock_ledger::{Error, alive};
use riverlock_tests::{Database, binary};
use tokio::{process::Command, task::JoinSet, time::timeout};

use crate::harness::proxy::Proxy;

/// Longest run time of a command: its own limit, and its start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_command_ends_although_its_first_answer_never_comes() {
    let (database, mut commands) = (Database::create().await.unwrap(), JoinSet::new());
    for words in [
        "orders list",
        "orders show o",
        "trace e",
        "dead-letters list",
        "dead-letters show e",
        "dead-letters discard e --apply --reason test",
        "replay list",
        "outbox list",
        "invoices list",
        "shipments list",
    ] {
        let (proxy, postgres) = Proxy::silent_at_first_statement(&database).await;
        commands.spawn(async move {
            let _way = proxy;
            let mut command = Command::new(binary().unwrap());
            command
                .env("RIVERLOCK__POSTGRES__URL", postgres.url.expose())
                .env("RIVERLOCK__POSTGRES__STATEMENT_TIMEOUT", "1s")
                .args(words.split(' '))
                .kill_on_drop(true);
            let output = timeout(PATIENCE, command.output()).await;
            let output = output.unwrap_or_else(|_| panic!("{words} does not end")).unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(3), "{words}: {error}");
            assert!(error.contains("did not answer within 6 s"), "{words}: {error}");
        });
    }
    commands.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_without_a_limit_ends_when_postgres_has_lost_its_session() {
    let database = Database::create().await.unwrap();
    let (proxy, postgres) = Proxy::to_database(&database).await;
    let mut connection = postgres.connect().await.unwrap();
    let session = alive::session_of(&postgres, &mut connection).await.unwrap();
    let often = (Duration::from_millis(50), PATIENCE);
    let sleep =
        async { sqlx::raw_sql("SELECT pg_sleep(1)").execute(&mut connection).await.map(drop).map_err(Error::from) };
    alive::watched(&database.config, &[session], often, sleep).await.expect("the session exists");

    proxy.open.send_replace(false);
    let mut admin = database.connect().await.unwrap();
    sqlx::query("SELECT pg_terminate_backend($1)").bind(session).execute(&mut admin).await.unwrap();
    let sleep =
        async { sqlx::raw_sql("SELECT pg_sleep(1)").execute(&mut connection).await.map(drop).map_err(Error::from) };
    let lost = timeout(PATIENCE, alive::watched(&database.config, &[session], often, sleep)).await;
    let lost = lost.expect("the loss is detected").unwrap_err();
    assert!(matches!(lost, Error::SessionLost(pid) if pid == session), "{lost}");
    assert!(!lost.leaves_connection_usable());
}
