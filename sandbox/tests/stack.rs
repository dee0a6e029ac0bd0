//! The stack with real servers: they start, keep their data across stops and kills, and end with their parent.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is reported")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::producer::{FutureProducer, FutureRecord};
use riverlock_sandbox::stack::{self, EmbeddedBroker, Kafka, Postgres, ports};
use rustix::process::{Pid, kill_process};
use stack::Signal;

const TOPIC: &str = "stack.test";
/// The variable with the folder of the server that [`helper_that_starts_a_server`] starts.
const PARENT_DIR: &str = "RIVERLOCK_STACK_TEST_DIR";

/// Debian's package installs psql in the folder of the server.
fn psql(postgres: &Postgres, statement: &str) -> String {
    let output = Command::new("psql").args([&postgres.url(), "-Atc", statement]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn create_topic(bootstrap: &str, replicas: i32) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    let topic = NewTopic::new(TOPIC, 2, TopicReplication::Fixed(replicas));
    let results = admin.create_topics([&topic], &AdminOptions::new()).await.unwrap();
    assert_eq!(results, [Ok(TOPIC.to_owned())]);
}

async fn produce(bootstrap: &str, value: &str) {
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", bootstrap).set("enable.idempotence", "true").create().unwrap();
    producer.send(FutureRecord::to(TOPIC).key("k").payload(value), Duration::from_secs(30)).await.unwrap();
}

/// Reads until `expected` records have arrived, in a new consumer group.
fn consume(bootstrap: &str, expected: usize) -> Vec<String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "stack-test")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    consumer.subscribe(&[TOPIC]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut values = Vec::new();
    while values.len() < expected && Instant::now() < deadline {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            values.push(String::from_utf8(message.payload().unwrap().to_vec()).unwrap());
        }
    }
    values
}

#[tokio::test]
async fn postgres_keeps_committed_data_across_a_stop_and_a_kill() {
    let folder = stack::temporary_dir().unwrap();
    let mut postgres = Postgres::start(folder.path(), ports::free_port().unwrap()).await.unwrap();
    assert_eq!(psql(&postgres, "SHOW fsync"), "on");
    psql(&postgres, "CREATE TABLE t (n int)");

    psql(&postgres, "INSERT INTO t VALUES (1)");
    postgres.restart().await.unwrap();
    assert_eq!(psql(&postgres, "SELECT sum(n) FROM t"), "1");

    psql(&postgres, "INSERT INTO t VALUES (2)");
    postgres.kill().await.unwrap();
    assert!(!postgres.process().is_running());
    postgres.restart().await.unwrap();
    assert_eq!(psql(&postgres, "SELECT sum(n) FROM t"), "3");

    postgres.stop().await.unwrap();
    assert!(ports::is_free(postgres.port()));
}

#[tokio::test]
async fn a_taken_port_and_a_wrong_folder_are_reported() {
    let folder = stack::temporary_dir().unwrap();
    let port = ports::free_port().unwrap();
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let error = Postgres::start(folder.path(), port).await.unwrap_err().to_string();
    assert!(error.contains("is taken"), "{error}");
    drop(listener);

    std::fs::create_dir(folder.path().join("data")).unwrap();
    std::fs::write(folder.path().join("data/PG_VERSION"), "9\n").unwrap();
    let error = Postgres::start(folder.path(), port).await.unwrap_err().to_string();
    assert!(error.contains("was created by PostgreSQL 9"), "{error}");
}

#[tokio::test]
async fn one_broker_keeps_its_records_across_a_stop_and_a_kill() {
    if !stack::kafka_for_test("one_broker_keeps_its_records_across_a_stop_and_a_kill") {
        return;
    }
    let folder = stack::temporary_dir().unwrap();
    let mut kafka = Kafka::start(folder.path(), &ports::free_ports(1).unwrap()).await.unwrap();
    create_topic(&kafka.bootstrap(), 1).await;
    produce(&kafka.bootstrap(), "a").await;
    kafka.stop().await.unwrap();

    kafka.start_all().await.unwrap();
    produce(&kafka.bootstrap(), "b").await;
    kafka.kill_node(1).await.unwrap();

    kafka.start_node(1).await.unwrap();
    assert_eq!(consume(&kafka.bootstrap(), 2), ["a", "b"]);
    kafka.stop().await.unwrap();
}

#[tokio::test]
async fn three_brokers_continue_without_one_and_accept_it_again() {
    if !stack::kafka_for_test("three_brokers_continue_without_one_and_accept_it_again") {
        return;
    }
    let folder = stack::temporary_dir().unwrap();
    let mut kafka = Kafka::start(folder.path(), &ports::free_ports(3).unwrap()).await.unwrap();
    create_topic(&kafka.bootstrap(), 3).await;
    produce(&kafka.bootstrap(), "a").await;
    kafka.kill_node(2).await.unwrap();
    produce(&kafka.bootstrap(), "b").await;
    kafka.start_node(2).await.unwrap();
    kafka.stop_node(1).await.unwrap();
    produce(&kafka.bootstrap(), "c").await;
    assert_eq!(consume(&kafka.bootstrap(), 3), ["a", "b", "c"]);
    kafka.stop().await.unwrap();
}

#[tokio::test]
async fn the_embedded_broker_serves_topics_and_groups() {
    let broker = EmbeddedBroker::start([(TOPIC.to_owned(), 2)].into_iter()).unwrap();
    produce(&broker.bootstrap(), "a").await;
    assert_eq!(consume(&broker.bootstrap(), 1), ["a"]);
}

/// Not a test by itself: the test below runs it in a separate process, where it starts a server and waits to be killed.
#[tokio::test]
async fn helper_that_starts_a_server() {
    let Some(folder) = std::env::var_os(PARENT_DIR).map(PathBuf::from) else { return };
    let postgres = Postgres::start(&folder, ports::free_port().unwrap()).await.unwrap();
    std::fs::write(folder.join("pid"), format!("{}\n", postgres.process().pid())).unwrap();
    postgres.process().wait().await.unwrap();
}

#[test]
fn a_server_ends_when_its_parent_is_killed() {
    let folder = stack::temporary_dir().unwrap();
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_that_starts_a_server"])
        .env(PARENT_DIR, folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid_file = folder.path().join("pid");
    let pid = wait_for(|| std::fs::read_to_string(&pid_file).ok().filter(|pid| pid.ends_with('\n')));
    let server = PathBuf::from("/proc").join(pid.trim());
    assert!(is_postgres(&server));

    kill_process(Pid::from_child(&parent), Signal::KILL).unwrap();
    parent.wait().unwrap();
    wait_for(|| (!is_postgres(&server)).then_some(()));
}

/// Whether a process runs; a zombie has no command line.
fn is_postgres(process: &Path) -> bool {
    std::fs::read_to_string(process.join("cmdline")).is_ok_and(|line| line.contains("postgres"))
}

fn wait_for<T>(mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "it did not happen in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}
