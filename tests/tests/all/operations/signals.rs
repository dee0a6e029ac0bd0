//! Signals to services.

use std::time::Duration;

use riverlock_ledger::postgres::cluster;
use riverlock_runtime::kafka::{KafkaConfig, topics};
use riverlock_sandbox::stack::{EmbeddedBroker, ports};
use riverlock_tests::{Database, binary};
use tokio::{process::Command, time::Instant};

const PATIENCE: Duration = Duration::from_secs(60);

async fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().await.unwrap().success());
}

async fn answers(url: &str) -> bool {
    reqwest::get(url).await.is_ok_and(|answer| answer.status().is_success())
}

#[tokio::test(flavor = "multi_thread")]
async fn services_without_reload_ignore_sighup_and_end_cleanly_on_sigterm() {
    let kafka = KafkaConfig::default();
    let names = topics::names(&kafka).into_iter().map(|name| (name, kafka.partitions));
    let broker = EmbeddedBroker::start(names).unwrap();
    let database = Database::create().await.unwrap();
    let kafka = KafkaConfig { brokers: broker.bootstrap(), ..kafka };
    let id = cluster::connected(&kafka).await.unwrap();
    cluster::adopt(&mut database.connect().await.unwrap(), &id).await.unwrap();
    for service in ["processor", "invoice-fetcher"] {
        let folder = tempfile::tempdir().unwrap();
        let admin = ports::free_port().unwrap();
        let mut command = Command::new(binary().unwrap());
        command
            .arg(service)
            .env("RIVERLOCK__KAFKA__BROKERS", broker.bootstrap())
            .env("RIVERLOCK__POSTGRES__URL", database.config.url.expose())
            .env("RIVERLOCK__ADMIN__LISTEN", format!("127.0.0.1:{admin}"))
            .env("RIVERLOCK__INVOICE_FETCHER__TEST__API_KEY", "key")
            .env("RIVERLOCK__INVOICE_FETCHER__STORE", format!("file://{}", folder.path().display()))
            .kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let pid = process.id().unwrap();
        let ready = format!("http://127.0.0.1:{admin}/readyz");
        let until = Instant::now() + PATIENCE;
        while !answers(&ready).await {
            assert!(Instant::now() < until && process.try_wait().unwrap().is_none(), "{service} is not ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for _ in 0..3 {
            signal(pid, "-HUP").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(process.try_wait().unwrap().is_none() && answers(&ready).await, "{service}");
        signal(pid, "-TERM").await;
        assert!(tokio::time::timeout(PATIENCE, process.wait()).await.unwrap().unwrap().success(), "{service}");
    }
}
