//! Periodic jobs do not exhaust any resource over years.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use rdkafka::mocking::MockCluster;
use riverlock::config::Config;
use riverlock_invoice_fetcher::{Archive, InvoiceFetcherConfig};
use riverlock_ledger::{
    PostgresConfig, periodic,
    postgres::{self, cluster, migrations},
    store,
};
use riverlock_runtime::{
    Clock as _, Context, SystemClock,
    kafka::{KafkaConfig, topics},
};
use riverlock_sandbox::stack::usage;
use riverlock_tests::{Database, events, lives};
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::{process::Command, task::JoinSet};

use crate::harness::raw::{Raw, execute, value};

/// Rounds of every job: half a year of a job that runs every five minutes.
const ROUNDS: usize = 50_000;
/// Rounds of jobs that also query Kafka or open a connection, which take milliseconds each.
const SLOW_ROUNDS: usize = 500;
/// Rounds before the first measurement, which fill caches and start threads.
const WARM_UP_ROUNDS: usize = 200;
/// The name of the test, for the process that it starts.
const NAME: &str = "operations::endurance::fifty_thousand_rounds_of_every_periodic_job_use_nothing_up";
/// Set in that process.
const IS_CHILD: &str = "RIVERLOCK_ENDURANCE_CHILD";
/// Most growth of a table in bytes; the test vacuums less often than production does.
const TABLE_GROWTH_MAX: i64 = 256 * 1024;
/// Most growth of the process's memory in KiB: caches of the allocator and of client libraries.
const MEMORY_GROWTH_MAX: u64 = 32 * 1024;
/// Most additional file descriptors: some are open only at times.
const DESCRIPTORS_SPARE: usize = 4;

/// The resources that could be exhausted.
#[derive(Debug)]
struct Used {
    /// The last value of each sequence.
    sequences: BTreeMap<String, Option<i64>>,
    rows: BTreeMap<String, i64>,
    /// Sizes of tables in bytes, with indexes, after a vacuum.
    sizes: BTreeMap<String, i64>,
    sessions: i64,
    locks: i64,
    /// Temporary files that PostgreSQL has written since its start.
    server_files: i64,
    descriptors: usize,
    temporary_files: usize,
    threads: usize,
    /// Resident memory in KiB.
    memory: u64,
}

impl Used {
    async fn now(connection: &mut PgConnection) -> Self {
        let tables: Vec<String> = sqlx::query_scalar("SELECT relname::text FROM pg_stat_user_tables ORDER BY 1")
            .fetch_all(&mut *connection)
            .await
            .unwrap();
        let (mut rows, mut sizes) = (BTreeMap::new(), BTreeMap::new());
        for table in tables {
            sqlx::query(AssertSqlSafe(format!("VACUUM {table}"))).execute(&mut *connection).await.unwrap();
            rows.insert(table.clone(), value(connection, format!("SELECT count(*) FROM {table}")).await);
            sizes.insert(table.clone(), value(connection, format!("SELECT pg_total_relation_size('{table}')")).await);
        }
        let sequences: Vec<(String, Option<i64>)> =
            sqlx::query_as("SELECT sequencename::text, last_value FROM pg_sequences")
                .fetch_all(&mut *connection)
                .await
                .unwrap();
        let here = "datname = current_database()";
        Self {
            sequences: sequences.into_iter().collect(),
            rows,
            sizes,
            sessions: value(connection, format!("SELECT count(*) FROM pg_stat_activity WHERE {here}")).await,
            locks: value(connection, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").await,
            server_files: value(connection, format!("SELECT temp_files FROM pg_stat_database WHERE {here}")).await,
            descriptors: count("/proc/self/fd"),
            temporary_files: count(std::env::temp_dir()),
            threads: count("/proc/self/task"),
            memory: usage::memory(i32::try_from(std::process::id()).unwrap()).unwrap().0 / 1024,
        }
    }

    fn assert_nothing_used_up_since(&self, before: &Self) {
        assert_eq!(self.sequences, before.sequences);
        assert_eq!(self.rows, before.rows);
        for (table, size) in &self.sizes {
            let growth = size - before.sizes[table];
            assert!(growth <= TABLE_GROWTH_MAX, "{table} has grown by {growth} bytes");
        }
        assert_eq!((self.sessions, self.locks), (before.sessions, before.locks));
        assert_eq!((self.server_files, self.temporary_files), (before.server_files, before.temporary_files));
        assert!(self.descriptors <= before.descriptors + DESCRIPTORS_SPARE, "{before:?}\n{self:?}");
        assert!(self.threads <= before.threads + DESCRIPTORS_SPARE, "{before:?}\n{self:?}");
        let growth = self.memory.saturating_sub(before.memory);
        assert!(growth <= MEMORY_GROWTH_MAX, "the process takes {growth} KiB more");
    }
}

fn count(folder: impl AsRef<Path>) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// The environment of the jobs.
#[derive(Clone)]
struct Place {
    kafka: KafkaConfig,
    postgres: PostgresConfig,
    consumers: riverlock_recovery::periodic::Consumers,
    context: Context,
    archive: Archive,
    configuration: std::path::PathBuf,
}

/// Runs every job for a number of rounds.
#[expect(clippy::print_stderr, reason = "a measurement, shown with --nocapture")]
async fn jobs(place: &Place, rounds: usize, slow: usize) {
    let mut jobs: JoinSet<(&str, usize, Duration)> = JoinSet::new();
    macro_rules! job {
        ($name:literal, $rounds:expr, |$place:ident| $work:expr) => {{
            let $place = place.clone();
            jobs.spawn(async move {
                let began = Instant::now();
                $work;
                ($name, $rounds, began.elapsed())
            });
        }};
    }
    job!("audit, statements", rounds, |place| {
        let mut connection = place.postgres.connect().await.unwrap();
        riverlock_recovery::periodic::audit_statements(&mut connection, &place.consumers, rounds).await.unwrap();
        let kept: i64 = value(&mut connection, "SELECT count(*) FROM pg_prepared_statements").await;
        assert!(kept < 50, "{kept} statements are prepared");
    });
    job!("audit, runs", slow, |place| {
        let mut connection = place.postgres.connect().await.unwrap();
        riverlock_recovery::periodic::audit_runs(&place.kafka, &mut connection, &place.consumers, slow).await.unwrap();
    });
    job!("relay", rounds, |place| {
        periodic::relay_pages(&place.kafka, &place.postgres, &Context::new(), rounds).await.unwrap();
    });
    job!("offsets", rounds, |place| {
        periodic::offset_comparisons(place.consumers[0].0, &place.postgres, rounds).await.unwrap();
    });
    job!("letters", rounds, |place| riverlock_recovery::periodic::letter_counts(&place.postgres, rounds)
        .await
        .unwrap());
    job!("lag", rounds, |place| {
        let topic = place.kafka.topics().raw_other();
        let component = place.context.health.register("lag");
        let measure = move || periodic::lag_measurements(&place.kafka, [(topic, 1)].into(), &component, rounds);
        tokio::task::spawn_blocking(measure).await.unwrap().unwrap();
    });
    job!("sweep", rounds, |place| {
        for _ in 0..rounds {
            riverlock_invoice_fetcher::sweep(&place.archive, SystemClock.now()).await.unwrap();
        }
    });
    job!("reload", rounds, |place| {
        let load = move || (0..rounds).for_each(|_| drop(Config::load(Some(&place.configuration)).unwrap()));
        tokio::task::spawn_blocking(load).await.unwrap();
    });
    job!("setup, statements", rounds, |place| {
        let mut connection = place.postgres.connect().await.unwrap();
        let topics = place.kafka.topics().all_raw();
        for _ in 0..rounds {
            assert!(migrations::pending(&mut connection, postgres::migrations()).await.unwrap().is_empty());
            cluster::recorded(&mut connection).await.unwrap();
            store::topic_ids(&mut connection, &topics).await.unwrap();
        }
    });
    job!("setup, migrations", slow, |place| {
        for _ in 0..slow {
            migrations::run(&place.postgres, postgres::migrations(), &mut |_| {}).await.unwrap();
        }
    });
    while let Some(done) = jobs.join_next().await {
        let (name, rounds, took) = done.unwrap();
        eprintln!("{name:<20} {rounds:>6} rounds in {:>5.1} s", took.as_secs_f64());
    }
}

/// Runs in a separate process, because other tests open files and use memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_thousand_rounds_of_every_periodic_job_use_nothing_up() {
    if std::env::var_os(IS_CHILD).is_some() {
        let took = run_every_job().await;
        eprintln!("all rounds took {:.0} s", took.as_secs_f64());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([NAME, "--exact", "--nocapture"]).env(IS_CHILD, "1").env("TMPDIR", folder.path());
    let output = child.output().await.unwrap();
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}{error}");
    eprintln!("{error}");
}

/// Runs all jobs and returns the time that they took.
async fn run_every_job() -> Duration {
    let broker = MockCluster::new(1).unwrap();
    let kafka = KafkaConfig { partitions: 1, brokers: broker.bootstrap_servers(), ..KafkaConfig::default() };
    for name in topics::names(&kafka) {
        broker.create_topic(&name, kafka.partitions, 1).unwrap();
    }
    let raw = Raw { database: Database::create().await.unwrap(), kafka, _cluster: None };
    let mut connection = raw.database.connect().await.unwrap();
    // Waiting for the disk uses no resource that is measured.
    let name: String = value(&mut connection, "SELECT current_database()::text").await;
    execute(&mut connection, format!("ALTER DATABASE {name} SET synchronous_commit = off")).await;
    cluster::adopt(&mut connection, &cluster::connected(&raw.kafka).await.unwrap()).await.unwrap();
    raw.take(events(&lives(81, 20)).map(|event| event.body.to_vec()).collect()).await;

    let folder = tempfile::tempdir().unwrap();
    let store = format!("file://{}", folder.path().join("archive").display()).parse().unwrap();
    std::fs::create_dir(folder.path().join("archive")).unwrap();
    let (configuration, key) = (folder.path().join("riverlock.toml"), folder.path().join("key"));
    std::fs::write(&key, "a key").unwrap();
    let text = format!("[invoice_fetcher.test]\napi_key = 'file:{}'\n", key.display());
    std::fs::write(&configuration, text).unwrap();
    let topics = raw.kafka.topics();
    let place = Place {
        consumers: vec![
            (riverlock_processor::CONSUMER, topics.orders()),
            (riverlock_invoice_fetcher::NAME, topics.documents()),
        ],
        kafka: raw.kafka.clone(),
        postgres: raw.database.config.clone(),
        context: Context::new(),
        archive: Archive::open(&InvoiceFetcherConfig { store, ..InvoiceFetcherConfig::default() }).unwrap(),
        configuration,
    };
    jobs(&place, WARM_UP_ROUNDS, WARM_UP_ROUNDS / 10).await;
    settle(&mut connection).await;
    let before = Used::now(&mut connection).await;
    let began = Instant::now();
    jobs(&place, ROUNDS, SLOW_ROUNDS).await;
    let took = began.elapsed();
    settle(&mut connection).await;
    Used::now(&mut connection).await.assert_nothing_used_up_since(&before);
    took
}

/// Waits until the sessions of closed connections have ended.
async fn settle(connection: &mut PgConnection) {
    for _ in 0..100 {
        if postgres::other_connections(connection).await.unwrap() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("sessions stay open");
}
