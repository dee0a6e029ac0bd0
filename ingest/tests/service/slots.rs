//! Unauthenticated clients cannot exhaust resources that authenticated ones need.

use std::{fs::File, net::Ipv4Addr, time::Duration};

use riverlock_ingest::config::LimitsConfig;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{io::AsyncWriteExt, net::TcpSocket, time::Instant};

use crate::{
    harness::{
        Answer, LOG, PATH, Service, configured, event, limits, process_metric, read_answer, request, send, service,
        start, unsigned, wait_until,
    },
    storm::Storm,
};

/// Requests that are opened but never completed.
const HOSTILE_STREAMS: usize = 10_000;
/// Fewest events per measurement.
const EVENTS: usize = 150;
/// Events per window. Other load on the machine slows down some windows; a slowdown caused by the storm shows in all of
/// them.
const WINDOW_EVENTS: usize = 25;
/// Factor by which signed events may be slower during the storm than without it. The storm uses its share of the processor,
/// and unoptimized builds need much of it.
const SLOWER_MAX: u32 = 10;

/// Sends signed events one after another, each on a new connection, until at least [`EVENTS`] were sent and `done` returns
/// true. Returns the duration of each.
async fn signed_events(service: &Service, prefix: &str, done: impl Fn() -> bool) -> Vec<Duration> {
    let mut took = Vec::new();
    while took.len() < EVENTS || !done() {
        let body = event(&format!("{prefix}-{}", took.len()), "order.accepted", &format!("o-{}", took.len()));
        let started = Instant::now();
        let answer = service.post(&body).await;
        assert_eq!(answer.status, 202, "event {} of {prefix}: {answer:?}", took.len());
        took.push(started.elapsed());
    }
    took
}

/// The duration within which `percent` percent were answered.
fn percentile(took: &[Duration], percent: usize) -> Duration {
    let mut took = took.to_vec();
    took.sort_unstable();
    took[(took.len() * percent).div_ceil(100) - 1]
}

/// The slowest event of each window, at the quartile of the least disturbed windows.
fn undisturbed_slowest(took: &[Duration]) -> Duration {
    let slowest: Vec<Duration> =
        took.chunks_exact(WINDOW_EVENTS).filter_map(|window| window.iter().max().copied()).collect();
    percentile(&slowest, 25)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_incomplete_requests_do_not_block_signed_events() {
    // With the storm from the same address as the signed events, and from another one.
    for from in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)] {
        let service = service().await;
        let quiet = signed_events(&service, "quiet", || true).await;
        let storm = Storm::start(service.address, from, 100, 100);
        wait_until("the storm has begun", || storm.opened() >= HOSTILE_STREAMS / 10).await;
        let during = signed_events(&service, "during", || storm.opened() >= HOSTILE_STREAMS).await;
        let opened = storm.opened();
        storm.end().await;
        let [p50, p99] = [50, 99].map(|percent| [&quiet, &during].map(|took| percentile(took, percent)));
        let slowest = undisturbed_slowest(&during);
        let events = during.len();
        println!(
            "{events} events during {opened} requests from {from}: p50 {p50:?}, p99 {p99:?}, undisturbed {slowest:?}"
        );
        assert!(p50[1] < SLOWER_MAX * p50[0], "p50 without and with the storm: {p50:?}");
        assert!(slowest < SLOWER_MAX * p99[0], "p99 without the storm {:?}, undisturbed with it {slowest:?}", p99[0]);
        assert!(service.stop().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_event_is_accepted_although_its_sender_is_not_known_yet() {
    let service = service().await;
    let storm = Storm::start(service.address, Ipv4Addr::LOCALHOST, 40, 60);
    wait_until("the storm has begun", || storm.opened() >= 2_000).await;
    let answer = service.post(&event("first", "order.accepted", "o")).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    storm.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_slots_are_taken_the_oldest_are_evicted() {
    let few = LimitsConfig { reading_max: 8, connections_max: 16, ..limits() };
    let service = start(few, |_| {}).await;
    service.ready().await;
    let evicted = || process_metric("riverlock_ingest_requests_evicted_total");
    let closed = || process_metric("riverlock_ingest_connections_evicted_total");
    let before = (evicted(), closed());
    let storm = Storm::start(service.address, Ipv4Addr::LOCALHOST, 20, 20);
    wait_until("slots are evicted", || evicted() > before.0 + 50.0 && closed() > before.1 + 10.0).await;
    let mut rejected = 0;
    for i in 0..50 {
        let sent = tokio::time::timeout(Duration::from_secs(3), try_post(&service, i)).await;
        rejected += usize::from(!matches!(sent, Ok(Some(202))));
    }
    storm.end().await;
    // With so few slots, success is random while hundreds of connections are opened per second; without eviction no event
    // would succeed.
    assert!(rejected < 25, "{rejected} of 50 signed events were not accepted");
}

/// Set in a process that may use up its file descriptors.
const EXHAUSTS_FILES: &str = "RIVERLOCK_TEST_EXHAUSTS_FILES";

/// Opens files until no more can be opened.
fn exhaust_files() -> Vec<File> {
    let limit = getrlimit(Resource::Nofile);
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    setrlimit(Resource::Nofile, Rlimit { current: Some(open + 100), maximum: limit.maximum }).unwrap();
    let files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert_eq!(File::open("/dev/null").unwrap_err().raw_os_error(), Some(rustix::io::Errno::MFILE.raw_os_error()));
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_cannot_be_accepted_wait_and_are_counted() {
    if std::env::var_os(EXHAUSTS_FILES).is_none() {
        // In a separate process, because the other tests need file descriptors.
        let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "slots::connections_that_cannot_be_accepted_wait_and_are_counted", "--nocapture"]);
        let output = command.env(EXHAUSTS_FILES, "1").output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        return;
    }
    let service = service().await;
    let client = TcpSocket::new_v4().unwrap();
    let files = exhaust_files();
    let mut stream = client.connect(service.address).await.unwrap();
    stream.write_all(&request(PATH, "", event("e", "order.accepted", "o").as_bytes())).await.unwrap();
    wait_until("accepting fails repeatedly", || process_metric("riverlock_ingest_accept_errors_total") >= 3.0).await;
    let lines = LOG.lines("a connection could not be accepted");
    assert!(lines.iter().any(|line| line.contains("Too many open files")), "{lines:?}");
    drop(files);
    let answer = read_answer(&mut stream).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(try_post(&service, 1).await, Some(202));
}

/// Sends a signed event and returns the status; `None` if the connection was closed.
async fn try_post(service: &Service, number: usize) -> Option<u16> {
    use tokio::io::AsyncReadExt;
    let body = event(&format!("e-{number}"), "order.accepted", "o");
    let mut stream = tokio::net::TcpStream::connect(service.address).await.ok()?;
    stream.write_all(&request(PATH, "", body.as_bytes())).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incomplete_bodies_do_not_occupy_bytes_that_a_signed_event_needs() {
    let limits = LimitsConfig {
        reading_bytes_max: 4 * 1024 * 1024,
        // So long that the timeout does not free any bytes.
        body_read_timeout: Duration::from_millis(2_500),
        ..limits()
    };
    let service = start(limits, |_| {}).await;
    service.ready().await;
    let head = format!("POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n");
    let bytes = [head.as_bytes(), &vec![b'x'; 1024 * 1024 - 1]].concat();
    let mut stalled = Vec::new();
    for _ in 0..6 {
        let mut stream = service.connect().await;
        stream.write_all(&bytes).await.unwrap();
        stalled.push(stream);
    }
    let body = event("e", "order.accepted", &"o".repeat(300_000));
    let answer = service.post(&body).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert!(service.requests("evicted") >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_from_an_address_that_is_not_allowed_is_closed_at_once() {
    let text = format!(
        "allow = ['digital-river']\n[[endpoints]]\nname = 'NAME'\npath = '{PATH}'\nsecrets = [{{ id = 'first', secret = 'whsec_0123456789abcdef' }}]\n"
    );
    let service = configured(&text, &[]).await;
    let closed = || process_metric("riverlock_ingest_connections_closed_total{reason=\"address_not_allowed\"}");
    let before = closed();
    assert_eq!(try_post(&service, 1).await, None);
    assert!(closed() > before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incomplete_token_requests_and_wrong_guesses_do_not_block_a_client() {
    let text = format!(
        "[oauth]\ntoken_keys = ['0123456789abcdef0123456789abcdef']\n[[endpoints]]\nname = 'NAME'\npath = '{PATH}'\n[[endpoints.oauth]]\nclient_id = 'NAME-dr'\nclient_secret = 'client secret, long'\n"
    );
    let service = configured(&text, &[]).await;
    let form =
        format!("grant_type=client_credentials&client_id={}-dr&client_secret=client+secret%2C+long", service.endpoint);
    let request_token = async || -> Answer {
        let request = format!(
            "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        );
        send(service.address, request.as_bytes()).await
    };
    let mut stalled = Vec::new();
    for _ in 0..100 {
        let mut stream = service.connect().await;
        let head = "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\ngrant_type=";
        stream.write_all(head.as_bytes()).await.unwrap();
        stalled.push(stream);
    }
    let answer = request_token().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // Wrong guesses from the client's own address, as behind a proxy that does not name its clients.
    let wrong = form.replace("client_secret=client", "client_secret=another");
    let mut limited = 0;
    for i in 0..40 {
        let form = wrong.replace("-dr&", &format!("-{i}&"));
        let head = format!(
            "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            form.len()
        );
        limited += usize::from(send(service.address, format!("{head}{form}").as_bytes()).await.status == 429);
    }
    assert!(limited > 10, "guesses are limited: {limited}");
    assert_eq!(request_token().await.status, 200);
    let bearer = request_token().await.body["access_token"].as_str().unwrap().to_owned();
    let body = event("e", "order.accepted", "o");
    let header = format!("Authorization: Bearer {bearer}\r\n");
    assert_eq!(service.send(&unsigned(PATH, &header, body.as_bytes())).await.status, 202);
}
