//! `riverlock setup`, and how migrations run.

use std::{
    process::Output,
    sync::{Arc, Mutex},
    time::Duration,
};

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ConfigSource, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use riverlock_ledger::{
    PostgresConfig,
    postgres::{
        self,
        migrations::{self, MigrationError, Progress},
    },
};
use riverlock_runtime::kafka::{KafkaConfig, topics};
use riverlock_sandbox::stack::{self, EmbeddedBroker, Kafka, kafka_for_test};
use riverlock_tests::{Database, binary};
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Connection as _, SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
};
use tokio::process::Command;

use crate::harness::raw::{execute, value};

/// The longest that any step may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The schema to set up; empty at first.
const SCHEMA: &str = "fresh";
/// An address at which nothing listens.
const NOBODY: &str = "127.0.0.1:1";

/// A database with an empty schema, and a configuration.
struct Desk {
    folder: tempfile::TempDir,
    database: Database,
}

impl Desk {
    async fn new() -> Self {
        let (database, folder) = (Database::create().await.unwrap(), tempfile::tempdir().unwrap());
        execute(&mut database.connect().await.unwrap(), format!("CREATE SCHEMA {SCHEMA}")).await;
        Self { folder, database }
    }

    fn tables(&self) -> PostgresConfig {
        self.database.config.in_schema(SCHEMA)
    }

    /// Runs `riverlock setup` on this broker, with these further lines in `[kafka]`.
    async fn setup(&self, brokers: &str, kafka: &str, arguments: &[&str]) -> Output {
        self.setup_in(self.database.config.url.expose(), brokers, kafka, arguments).await
    }

    async fn setup_in(&self, url: &str, brokers: &str, kafka: &str, arguments: &[&str]) -> Output {
        let config =
            format!("[kafka]\nbrokers = '{brokers}'\n{kafka}\n[postgres]\nschema = '{SCHEMA}'\nurl = '{url}'\n");
        let file = self.folder.path().join("riverlock.toml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(binary().unwrap());
        command.arg("--config").arg(file).arg("setup").args(arguments).output().await.unwrap()
    }
}

/// Checks the exit code of a run; returns its output.
fn text(output: Output, code: i32) -> String {
    let (text, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code), "{text}{error}");
    text + &error
}

fn embedded() -> EmbeddedBroker {
    let kafka = KafkaConfig::default();
    EmbeddedBroker::start(topics::names(&kafka).into_iter().map(|name| (name, kafka.partitions))).unwrap()
}

#[tokio::test]
async fn a_first_setup_prints_its_changes_and_a_second_one_changes_nothing() {
    let (desk, cluster) = (Desk::new().await, embedded());
    let first = text(desk.setup(&cluster.bootstrap(), "", &[]).await, 0);
    let count = postgres::migrations().iter().count();
    for expected in [
        format!("migration 1 (1 of {count}), initial: running"),
        "migration 1: done (".to_owned(),
        "recorded as the cluster of this database".to_owned(),
        // The library's error about unsupported settings is printed.
        "its settings could not be compared".to_owned(),
        format!("{count} migrations run"),
    ] {
        assert!(first.contains(&expected), "{expected} is not in:\n{first}");
    }
    // Running services of the same version are allowed.
    let service = desk.tables().connect().await.unwrap();
    let second: Value =
        serde_json::from_slice(&desk.setup(&cluster.bootstrap(), "", &["--json"]).await.stdout).unwrap();
    assert_eq!((&second["isWell"], &second["cluster"]["isNew"]), (&true.into(), &false.into()), "{second}");
    assert_eq!(second["migrations"], Value::Array(Vec::new()));
    drop(service);
    let mut connection = desk.tables().connect().await.unwrap();
    let numbered: i64 = value(&mut connection, "SELECT count(*) FROM topic_names WHERE is_current").await;
    assert_eq!(numbered, i64::try_from(KafkaConfig::default().topics().all_raw().len()).unwrap());
}

#[tokio::test]
async fn failed_checks_differ_from_findings() {
    let (desk, cluster) = (Desk::new().await, embedded());
    let away = text(desk.setup(NOBODY, "", &[]).await, 3);
    assert!(away.contains("did not report its cluster id"), "{away}");
    let url = format!("postgres://riverlock:riverlock@{NOBODY}/riverlock");
    let away = text(desk.setup_in(&url, &cluster.bootstrap(), "", &[]).await, 3);
    assert!(away.contains("PostgreSQL does not take a connection"), "{away}");
    let usage = desk.setup(&cluster.bootstrap(), "", &["--republish-since", "1h"]).await;
    assert_eq!(usage.status.code(), Some(2));

    // A different number of partitions is reported, not changed.
    let differs = text(desk.setup(&cluster.bootstrap(), "partitions = 6", &[]).await, 1);
    let expected = "topic riverlock.raw.other: partitions is 3, but 6 is configured; the services refuse to start";
    assert!(differs.contains(expected), "{differs}");
}

#[tokio::test]
async fn tables_are_not_changed_under_services() {
    let (desk, cluster) = (Desk::new().await, embedded());
    let service = desk.tables().connect().await.unwrap();
    let refused = text(desk.setup(&cluster.bootstrap(), "", &[]).await, 1);
    assert!(refused.contains("stop every processor and invoice-fetcher first"), "{refused}");
    service.close().await.unwrap();
    let mut code = None;
    for _ in 0..100 {
        // A server process ends shortly after its connection.
        code = desk.setup(&cluster.bootstrap(), "", &[]).await.status.code();
        if code == Some(0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it ends with {code:?}");
}

async fn settings(admin: &AdminClient<DefaultClientContext>, topic: &str) -> Vec<(String, String)> {
    let found = admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &AdminOptions::new()).await.unwrap();
    let entries = found.into_iter().next().unwrap().unwrap().entries;
    let set = entries.into_iter().filter(|entry| entry.source == ConfigSource::DynamicTopic);
    set.map(|entry| (entry.name, entry.value.unwrap_or_default())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn differing_topic_settings_are_printed_and_changed_only_on_request() {
    if !kafka_for_test("differing_topic_settings_are_printed_and_changed_only_on_request") {
        return;
    }
    let (desk, folder) = (Desk::new().await, stack::temporary_dir().unwrap());
    let mut broker = Kafka::start(&folder.path().join("kafka"), &[stack::ports::free_port().unwrap()]).await.unwrap();
    let brokers = broker.bootstrap();
    let created = text(desk.setup(&brokers, "", &[]).await, 0);
    assert!(created.contains("topic riverlock.raw.other: created ("), "{created}");

    let kafka = KafkaConfig { brokers: brokers.clone(), ..KafkaConfig::default() };
    let admin: AdminClient<DefaultClientContext> = kafka.client().create().unwrap();
    let (raw, messages) = ("riverlock.raw.other", "riverlock.fulfillment");
    // A setting that Riverlock does not manage.
    let mut other: Vec<(String, String)> = settings(&admin, raw).await;
    other.push(("segment.ms".to_owned(), "3600000".to_owned()));
    let change = AlterConfig::new(ResourceSpecifier::Topic(raw));
    let change = other.iter().fold(change, |change, (key, value)| change.set(key, value));
    admin.alter_configs([&change], &AdminOptions::new()).await.unwrap().remove(0).unwrap();

    let month = "retention_ms = 2592000000";
    let shown = text(desk.setup(&brokers, month, &[]).await, 1);
    let expected = "retention.ms is -1, but 2592000000 is configured (change it with --apply-topic-settings)";
    assert!(shown.contains(&format!("topic {raw}: {expected}")), "{shown}");
    assert!(!shown.contains(&format!("topic {messages}")), "retention applies to raw topics only: {shown}");
    assert_eq!(settings(&admin, raw).await.len(), other.len(), "nothing was changed");

    let changed = text(desk.setup(&brokers, month, &["--apply-topic-settings"]).await, 0);
    assert!(changed.contains(&format!("topic {raw}: retention.ms changed from -1 to 2592000000")), "{changed}");
    let now = settings(&admin, raw).await;
    assert!(now.contains(&("retention.ms".to_owned(), "2592000000".to_owned())), "{now:?}");
    assert!(now.contains(&("segment.ms".to_owned(), "3600000".to_owned())), "other settings stay: {now:?}");
    assert!(settings(&admin, messages).await.contains(&("retention.ms".to_owned(), "-1".to_owned())));
    assert_eq!(topics::partitions_of(&KafkaConfig { partitions: 1, ..kafka }, raw).unwrap(), 3);
    broker.stop().await.unwrap();
}

fn migration(version: i64, description: &'static str, sql: String, no_tx: bool) -> Migration {
    Migration::new(version, description.into(), MigrationType::Simple, AssertSqlSafe(sql).into_sql_str(), no_tx)
}

/// Runs migrations, and collects their progress.
async fn run(config: &PostgresConfig, migrator: &Migrator) -> (Result<usize, MigrationError>, Vec<Progress>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let mut tell = |progress| told.lock().unwrap().push(progress);
    let ran = migrations::run(config, migrator, &mut tell).await;
    let told = told.lock().unwrap().clone();
    (ran.map(|ran| ran.len()), told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_has_no_time_limit_and_retries_locks() {
    let desk = Desk::new().await;
    let config = PostgresConfig {
        statement_timeout: Duration::from_millis(200),
        lock_timeout: Duration::from_millis(200),
        ..desk.tables()
    };
    let mut other = config.connect().await.unwrap();
    execute(&mut other, "CREATE TABLE t (a integer)").await;
    let migrator = Migrator::with_migrations(vec![
        migration(1, "slow", "SELECT pg_sleep(1)".to_owned(), false),
        migration(2, "locked", "ALTER TABLE t ADD COLUMN b integer".to_owned(), false),
    ]);
    let mut holder = config.connect_with(|options| options.options([("statement_timeout", "0")])).await.unwrap();
    let mut transaction = holder.begin().await.unwrap();
    execute(&mut transaction, "LOCK TABLE t IN ROW EXCLUSIVE MODE").await;
    let release = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        transaction.rollback().await.unwrap();
    };
    let ((ran, told), ()) = tokio::join!(run(&config, &migrator), release);
    assert_eq!(ran.unwrap(), 2, "{told:?}");
    let locked = told.iter().filter(|progress| matches!(progress, Progress::Locked(item) if item.version == 2)).count();
    assert!(locked >= 1, "{told:?}");
    assert_eq!(run(&config, &migrator).await.0.unwrap(), 0, "migrations run once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_built_concurrently_and_an_interrupted_attempt_is_cleaned_up() {
    let desk = Desk::new().await;
    let config = PostgresConfig { lock_timeout: Duration::from_millis(200), ..desk.tables() };
    let mut connection = config.connect().await.unwrap();
    execute(&mut connection, "CREATE TABLE t (a integer)").await;
    execute(&mut connection, "INSERT INTO t SELECT generate_series(1, 1000)").await;
    let sql = "-- no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS t_by_a ON t (a)".to_owned();
    let migrator = Migrator::with_migrations(vec![migration(1, "index t by a", sql, true)]);
    assert!(migrations::pending(&mut connection, &migrator).await.unwrap().iter().all(migrations::Item::is_index));

    // Building the index waits for this transaction, which keeps writing.
    let mut writer = config.connect().await.unwrap();
    let mut transaction = writer.begin().await.unwrap();
    execute(&mut transaction, "INSERT INTO t VALUES (0)").await;
    let interrupted = tokio::time::timeout(Duration::from_secs(2), run(&config, &migrator)).await;
    assert!(interrupted.is_err(), "building waits for the writer");
    // The server process continues until it is cancelled.
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE query LIKE '%CREATE INDEX CONCURRENTLY%' AND pid <> pg_backend_pid()";
    let ended: i64 = value(&mut connection, end).await;
    assert!(ended >= 1);
    let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
    assert_eq!(value::<i64>(&mut connection, invalid).await, 1, "the test showed nothing");

    let write = async {
        for number in 1..20 {
            execute(&mut transaction, format!("INSERT INTO t VALUES (-{number})")).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        transaction.commit().await.unwrap();
    };
    let (built, ()) = tokio::join!(tokio::time::timeout(PATIENCE, run(&config, &migrator)), write);
    let (ran, told) = built.unwrap();
    assert_eq!(ran.unwrap(), 1, "{told:?}");
    assert_eq!(value::<i64>(&mut connection, invalid).await, 0);
    let valid = "SELECT count(*) FROM pg_index WHERE indexrelid = 't_by_a'::regclass AND indisvalid";
    assert_eq!(value::<i64>(&mut connection, valid).await, 1);
}

#[tokio::test]
async fn services_of_the_former_version_continue_with_a_new_index() {
    let database = Database::create().await.unwrap();
    let mut connection = database.connect().await.unwrap();
    for (version, description, unknown) in [(9_001, "index events by something", 0), (9_002, "other columns", 1)] {
        let add = format!(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES ({version}, '{description}', true, '', 0)"
        );
        execute(&mut connection, add).await;
        assert_eq!(postgres::migrations_unknown(&mut connection).await.unwrap(), unknown, "{description}");
    }
}
