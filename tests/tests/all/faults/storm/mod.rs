//! Two of each service are killed, stopped and frozen at random, and Kafka and PostgreSQL as well: every acknowledged event
//! has one outcome, and every effect is one message.

#![expect(clippy::print_stdout, reason = "the injected faults, shown with --nocapture")]

mod checks;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use fastrand::Rng;
use riverlock_ledger::view;
use riverlock_recovery::audit;
use riverlock_sandbox::{
    PlannedEvent,
    stack::{self, Process, Signal, kafka_for_test, ports},
};
use riverlock_tests::{World, binary, hostile, load::Target};
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

/// The seed of the faults; `RIVERLOCK_STORM_SEED` overrides it.
const SEED: u64 = 23;
/// Duration of the storm in seconds; `RIVERLOCK_STORM_SECONDS` overrides it.
const SECONDS: u64 = 12;
/// Orders for each second of the storm, with about 5 deliveries each.
const ORDERS_PER_SECOND: u64 = 8;
/// Most concurrent deliveries.
const SENDERS: usize = 24;
/// Interval at which ended services are restarted and conditions are checked.
const TICK: Duration = Duration::from_millis(50);
/// The longest time without progress after the storm.
const PATIENCE: Duration = Duration::from_secs(180);
/// Most attempts to deliver an event.
const ATTEMPTS_MAX: usize = 400;
/// Longest time a process is frozen, milliseconds: longer than a consumer's session lasts.
const FROZEN_MAX: u64 = 9_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var_os(name).map_or(default, |text| text.to_str().unwrap().parse().unwrap())
}

/// A service that is restarted whenever it has ended.
struct One {
    name: &'static str,
    admin: u16,
    command: Command,
    log: PathBuf,
    process: Process,
    starts: usize,
    frozen_until: Option<Instant>,
}

impl One {
    fn start(world: &World, home: &std::path::Path, name: &'static str, number: usize) -> anyhow::Result<(Self, u16)> {
        let (admin, front) = (ports::free_port()?, ports::free_port()?);
        let mut command = Command::new(binary()?);
        command
            .arg("--config")
            .arg(&world.local.config_file)
            .arg(name)
            .env("RIVERLOCK__ADMIN__LISTEN", format!("127.0.0.1:{admin}"))
            .env("RIVERLOCK__INGEST__LISTEN", format!("127.0.0.1:{front}"))
            // Leases of a killed fetcher end soon.
            .env("RIVERLOCK__INVOICE_FETCHER__ATTEMPT_DEADLINE", "10s")
            .env("RIVERLOCK__INVOICE_FETCHER__LEASE", "26s");
        let log = home.join(format!("{name}-{number}.log"));
        let process = Process::spawn(name, &command, &log)?;
        Ok((Self { name, admin, command, log, process, starts: 1, frozen_until: None }, front))
    }

    fn tend(&mut self) -> anyhow::Result<()> {
        if self.frozen_until.is_some_and(|until| until <= Instant::now()) {
            self.frozen_until = None;
            self.process.signal(Signal::CONT);
        }
        if !self.process.is_running() {
            self.frozen_until = None;
            self.starts += 1;
            self.process = Process::spawn(self.name, &self.command, &self.log)?;
        }
        Ok(())
    }

    async fn answers(&self, client: &reqwest::Client, path: &str) -> anyhow::Result<String> {
        let answer = client.get(format!("http://127.0.0.1:{}{path}", self.admin)).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{} answers {path} with {status}: {text}", self.name);
        Ok(text)
    }
}

/// The services, and the faults injected into them.
struct Storm {
    world: World,
    services: Vec<One>,
    rng: Rng,
    blows: BTreeMap<String, usize>,
}

impl Storm {
    /// Injects one random fault.
    async fn inject_fault(&mut self) -> anyhow::Result<()> {
        let index = self.rng.usize(..self.services.len());
        let frozen = Duration::from_millis(self.rng.u64(50..FROZEN_MAX));
        let service = &mut self.services[index];
        let name = match self.rng.u32(..100) {
            0..30 => {
                service.process.kill().await?;
                format!("killed {}", service.name)
            }
            30..50 => {
                service.process.signal(Signal::CONT);
                service.process.signal(Signal::TERM);
                format!("stopped {}", service.name)
            }
            50..75 => {
                service.process.signal(Signal::STOP);
                service.frozen_until = Some(Instant::now() + frozen);
                format!("froze {}", service.name)
            }
            75..87 => self.cut_sessions().await?,
            87..92 => {
                let kafka = self.world.local.kafka().context("no Kafka")?;
                kafka.node(1).context("no node")?.signal(Signal::STOP);
                sleep(frozen / 2).await;
                kafka.node(1).context("no node")?.signal(Signal::CONT);
                "froze Kafka".to_owned()
            }
            92..96 => {
                let kill = self.rng.bool();
                let kafka = self.world.local.kafka().context("no Kafka")?;
                if kill {
                    kafka.kill_node(1).await?;
                } else {
                    kafka.stop_node(1).await?;
                }
                sleep(frozen / 3).await;
                self.world.local.restart_ended().await?;
                "restarted Kafka".to_owned()
            }
            _ => {
                self.world.local.postgres.kill().await?;
                sleep(frozen / 3).await;
                self.world.local.restart_ended().await?;
                "restarted PostgreSQL".to_owned()
            }
        };
        *self.blows.entry(name).or_default() += 1;
        Ok(())
    }

    /// Ends some of the sessions that the services have with PostgreSQL.
    async fn cut_sessions(&mut self) -> anyhow::Result<String> {
        let mut connection = self.world.local.config.postgres.connect().await?;
        let share = if self.rng.bool() { 1.0 } else { 0.3 };
        sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < $1")
            .bind(share)
            .execute(&mut connection)
            .await?;
        Ok("cut sessions".to_owned())
    }

    /// Injects faults until everything has been sent.
    async fn inject_faults(&mut self, over: &AtomicBool) -> anyhow::Result<()> {
        let mut next = Instant::now();
        while !over.load(Ordering::Relaxed) {
            if next <= Instant::now() {
                self.inject_fault().await?;
                next = Instant::now() + Duration::from_millis(self.rng.u64(100..1_500));
            }
            self.tend()?;
            sleep(TICK).await;
        }
        for service in &mut self.services {
            service.process.signal(Signal::CONT);
            service.frozen_until = None;
        }
        Ok(())
    }

    fn tend(&mut self) -> anyhow::Result<()> {
        self.services.iter_mut().try_for_each(One::tend)
    }

    /// Waits until nothing is left to process and every service is ready.
    async fn settle(&mut self) -> anyhow::Result<()> {
        let consumers = self.world.local.config.consumers();
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy().build()?;
        let (began, mut last, mut moved) = (Instant::now(), String::new(), Instant::now());
        loop {
            self.tend()?;
            let left = self.left(&consumers, &client).await?;
            if left.is_empty() {
                return Ok(());
            }
            if left != last {
                println!("{:.1} s: {left}", began.elapsed().as_secs_f64());
                (last, moved) = (left, Instant::now());
            }
            ensure!(moved.elapsed() < PATIENCE, "no progress for {PATIENCE:?}: {last}");
            sleep(Duration::from_millis(300)).await;
        }
    }

    async fn left(
        &self,
        consumers: &[(&'static str, Vec<String>)],
        client: &reqwest::Client,
    ) -> anyhow::Result<String> {
        let config = &self.world.local.config;
        let mut connection = config.postgres.connect().await?;
        let records = audit::pending(&config.kafka, &mut connection, consumers).await?;
        let due = riverlock_invoice_fetcher::queue::view::count_by_state(&mut connection).await?;
        let invoices = due.get("due").copied().unwrap_or_default();
        let messages = view::outbox_counts(&mut connection).await?.1;
        let letters: i64 = sqlx::query_scalar("SELECT count(*) FROM dead_letters WHERE published_at IS NULL")
            .fetch_one(&mut connection)
            .await?;
        if records + invoices + messages > 0 || letters > 0 {
            return Ok(format!("{records} records, {invoices} invoices, {messages} messages, {letters} letters"));
        }
        for service in &self.services {
            let lag = async {
                service.answers(client, "/livez").await?;
                service.answers(client, "/readyz").await?;
                let page = service.answers(client, "/metrics").await?;
                let lags: Vec<&str> =
                    page.lines().filter(|line| line.contains("riverlock_consumer_lag_records{")).collect();
                ensure!(lags.is_empty() == (service.name == "ingest"), "it shows the lag of {} topics", lags.len());
                let open: Vec<&&str> = lags.iter().filter(|line| !line.ends_with(" 0")).collect();
                ensure!(open.is_empty(), "{open:?}");
                anyhow::Ok(())
            };
            if let Err(error) = lag.await {
                return Ok(format!("{} is not well: {error:#}", service.name));
            }
        }
        Ok(String::new())
    }
}

/// Bodies that are sent one after the other: an event, and later bodies of the same event.
type Chain = Vec<(String, Bytes)>;

/// All traffic: the events of generated orders, interleaved, with duplicates, other spellings and contradictions; and
/// unusual bodies.
struct Traffic {
    chains: Vec<Chain>,
    /// Bodies that contradict an event that was acknowledged before.
    contradictions: Vec<Bytes>,
}

impl Traffic {
    fn new(lives: &[riverlock_sandbox::Life], rng: &mut Rng) -> Self {
        let mut traffic = Self { chains: Vec::new(), contradictions: Vec::new() };
        for event in riverlock_tests::events(lives) {
            let chain = traffic.chain(event, rng);
            traffic.chains.push(chain);
        }
        // Events overtake each other, as those of Digital River do.
        let reach = 40;
        for index in 0..traffic.chains.len() {
            let other = (index + rng.usize(..reach)).min(traffic.chains.len() - 1);
            traffic.chains.swap(index, other);
        }
        for odd in hostile::corpus().into_iter().filter(|odd| odd.outcome != "applied") {
            let id = serde_json::from_slice::<Value>(&odd.body).ok();
            let id = id.and_then(|event| Some(event["id"].as_str()?.to_owned())).unwrap_or_default();
            let at = rng.usize(..traffic.chains.len());
            traffic.chains.insert(at, vec![(id, odd.body.into())]);
        }
        traffic
    }

    fn chain(&mut self, event: &PlannedEvent, rng: &mut Rng) -> Chain {
        let mut bodies = vec![event.body.clone()];
        let mut parsed: Value = serde_json::from_slice(&event.body).unwrap();
        if rng.u32(..100) < 10 {
            bodies.push(event.body.clone());
        }
        if rng.u32(..100) < 10 {
            bodies.push(format!("{parsed:#}").into());
        }
        if rng.u32(..100) < 5 {
            parsed["data"]["object"]["expanded"] = Value::from(true);
            bodies.push(parsed.to_string().into());
        }
        // Any spelling may come first.
        rng.shuffle(&mut bodies);
        if event.event_type == "order.accepted" && rng.u32(..100) < 5 {
            parsed["data"]["object"]["items"][0]["quantity"] = Value::from(999);
            let contradiction = Bytes::from(parsed.to_string());
            self.contradictions.push(contradiction.clone());
            bodies.push(contradiction);
        }
        bodies.into_iter().map(|body| (event.id.clone(), body)).collect()
    }
}

/// Acknowledgements by event id; those of events without an id under an empty one.
type Acknowledged = HashMap<String, i64>;

/// Sends everything, spread over the duration of the storm, until it is acknowledged.
async fn send(chains: Vec<Chain>, fronts: Vec<u16>, seconds: u64) -> anyhow::Result<Acknowledged> {
    let (start, count) = (Instant::now(), chains.len());
    let queue: VecDeque<_> = (0..).zip(chains).collect();
    let (queue, acknowledged) = (Arc::new(Mutex::new(queue)), Arc::new(Mutex::new(Acknowledged::new())));
    let mut senders = JoinSet::new();
    for _ in 0..SENDERS {
        let (queue, acknowledged, fronts) = (Arc::clone(&queue), Arc::clone(&acknowledged), fronts.clone());
        senders.spawn(async move {
            loop {
                let Some((index, chain)) = queue.lock().unwrap().pop_front() else { return anyhow::Ok(()) };
                let due = Duration::from_secs(seconds).mul_f64(f64::from(index) / count as f64);
                sleep_until(start + due).await;
                for (id, body) in chain {
                    deliver(&fronts, &body).await.with_context(|| format!("sending {id}"))?;
                    *acknowledged.lock().unwrap().entry(id).or_default() += 1;
                }
            }
        });
    }
    while let Some(sender) = senders.join_next().await {
        sender??;
    }
    Ok(Arc::into_inner(acknowledged).context("a sender has not ended")?.into_inner()?)
}

async fn deliver(fronts: &[u16], body: &Bytes) -> anyhow::Result<()> {
    let mut last = String::new();
    for _ in 0..ATTEMPTS_MAX {
        let port = fronts[fastrand::usize(..fronts.len())];
        let target = Target {
            address: ([127, 0, 0, 1], port).into(),
            path: "/webhooks/digital-river".to_owned(),
            secret: "sandbox-signing-secret".to_owned(),
            bodies: [].into(),
            connections: 1,
        };
        last = match target.post("Content-Type: application/json\r\n", body).await {
            Ok(202) => return Ok(()),
            other => format!("{other:?}"),
        };
        sleep(Duration::from_millis(fastrand::u64(20..500))).await;
    }
    anyhow::bail!("never acknowledged: {last}")
}

async fn run(seed: u64, seconds: u64, home: &std::path::Path) -> anyhow::Result<()> {
    let mut rng = Rng::with_seed(seed);
    let world = World::start(seed, seconds * ORDERS_PER_SECOND, 1).await?;
    for service in &world.local.services {
        service.stop().await?;
    }
    let faults = serde_json::json!({ "seed": seed, "rules": [
        { "fault": { "kind": "server_error" }, "percent": 10, "times": 1 },
        { "fault": { "kind": "truncated" }, "percent": 20, "times": 1 },
        { "fault": { "kind": "slow", "milliseconds": 1_500 }, "percent": 10, "times": 1 },
    ]});
    let sandbox = format!("http://{}/sandbox/faults", world.local.config.sandbox.listen);
    let client = reqwest::Client::builder().no_proxy().build()?;
    client
        .post(sandbox)
        .bearer_auth("sandbox-confidential-key")
        .body(faults.to_string())
        .header("content-type", "application/json")
        .send()
        .await?
        .error_for_status()?;
    let (mut services, mut fronts) = (Vec::new(), Vec::new());
    for number in 1..=2 {
        for name in ["ingest", "processor", "invoice-fetcher"] {
            let (service, front) = One::start(&world, home, name, number)?;
            services.push(service);
            if name == "ingest" {
                fronts.push(front);
            }
        }
    }
    let lives: Vec<_> = world.play.lives().collect();
    let traffic = Traffic::new(&lives, &mut rng);
    let mut storm = Storm { world, services, rng, blows: BTreeMap::new() };
    let over = AtomicBool::new(false);
    let sending = async {
        let acknowledged = send(traffic.chains.clone(), fronts, seconds).await;
        over.store(true, Ordering::Relaxed);
        acknowledged
    };
    let (acknowledged, raged) = tokio::join!(sending, storm.inject_faults(&over));
    raged?;
    let acknowledged = acknowledged?;
    println!("seed {seed}: {} acknowledged, {:?}", acknowledged.values().sum::<i64>(), storm.blows);
    ensure!(
        storm.services.iter().map(|service| service.starts).sum::<usize>() > 6,
        "nothing ended: the test showed nothing"
    );
    let began = Instant::now();
    storm.settle().await?;
    println!("settled after {:?}", began.elapsed());
    checks::check(&storm, &traffic, &acknowledged).await?;
    for service in &storm.services {
        service.process.stop(Signal::TERM, Duration::from_secs(30)).await?;
    }
    storm.world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_each_service_in_a_storm_lose_no_event_and_apply_none_twice() {
    if !kafka_for_test("two_of_each_service_in_a_storm_lose_no_event_and_apply_none_twice") {
        return;
    }
    let home = stack::temporary_dir().unwrap();
    let seed = setting("RIVERLOCK_STORM_SEED", SEED);
    if let Err(error) = Box::pin(run(seed, setting("RIVERLOCK_STORM_SECONDS", SECONDS), home.path())).await {
        panic!("seed {seed}, logs in {}: {error:#}", home.keep().display());
    }
}
