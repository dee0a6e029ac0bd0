//! The key is sent only to the configured host, whatever redirects, events, DNS or the environment contain.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use metrics_exporter_prometheus::PrometheusBuilder;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use riverlock_ledger::{Decision, NewEvent, PostgresConfig, Projection as _};
use riverlock_runtime::{Context, SystemClock};
use riverlock_sandbox::stack::ports::free_port;
use riverlock_schemas::{Envelope, FileId, Mode};
use url::Url;

use super::{
    API_KEY, child, config,
    fetching::Bench,
    file,
    server::{Answer, Server},
    station::{Identity, Reply, Station},
};
use crate::{
    InvoiceFetcherConfig, InvoiceQueue,
    client::{download::Client, links},
    fetch::worker::Fetcher,
    problem::Problem,
    queue::{Document, LeasedDocument},
};

/// The configured host, and test certificates: its own, one for another name, and an untrusted one for its name.
const HOST: &str = "files.example";
const RIGHT: Identity = (include_str!("tls/right.pem"), include_str!("tls/right.key"));
const OTHER: Identity = (include_str!("tls/other.pem"), include_str!("tls/other.key"));
const FORGED: Identity = (include_str!("tls/forged.pem"), include_str!("tls/forged.key"));

/// A DNS resolver with a sequence of answers; the last one is repeated.
struct Dns(Mutex<VecDeque<Vec<IpAddr>>>);

impl Dns {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |answer: &&[&str]| answer.iter().map(|address| address.parse().unwrap()).collect();
        Arc::new(Self(Mutex::new(answers.iter().map(parse).collect())))
    }
}

impl Resolve for Dns {
    fn resolve(&self, name: Name) -> Resolving {
        assert_eq!(name.as_str(), HOST, "no other name is resolved");
        let mut answers = self.0.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() };
        Box::pin(async { Ok(Box::new(answer.into_iter().map(|address| SocketAddr::new(address, 0))) as Addrs) })
    }
}

/// One attempt with a new fetcher and archive, without connections, failures and documents of others.
async fn attempt(config: &InvoiceFetcherConfig, dns: Arc<Dns>) -> Result<Document, Problem> {
    let folder = tempfile::tempdir().unwrap();
    let config = &InvoiceFetcherConfig { store: Url::from_directory_path(folder.path()).unwrap(), ..config.clone() };
    let trusted = [RIGHT, OTHER].map(|(pem, _)| reqwest::Certificate::from_pem(pem.as_bytes()).unwrap());
    let http = reqwest::Client::builder().tls_certs_only(trusted);
    let client = Client::over(http, dns, config, Arc::new(SystemClock)).unwrap();
    let mut fetcher = Fetcher::new(config.clone(), &PostgresConfig::default(), Context::new()).unwrap();
    fetcher.client = client;
    let leased = LeasedDocument::for_test(file(1), Mode::Test);
    Box::pin(fetcher.attempt(&leased, Instant::now() + Duration::from_secs(20))).await
}

#[tokio::test]
async fn changing_dns_answers_never_send_the_key_to_another_host() {
    let (port, folder) = (free_port().unwrap(), tempfile::tempdir().unwrap());
    let station = async |address: &str, identity| {
        Station::start_at(SocketAddr::new(address.parse().unwrap(), port), identity, Reply::correct_for).await
    };
    let right = station("127.0.0.2", Some(RIGHT)).await;
    // At a private address with a valid certificate: no connection is allowed.
    let inside = station("127.0.0.1", Some(RIGHT)).await;
    // At allowed addresses, but other servers.
    let outside = [
        ("127.0.0.3", station("127.0.0.3", Some(OTHER)).await, "certificate not valid for name"),
        ("127.0.0.4", station("127.0.0.4", Some(FORGED)).await, "certificate"),
        ("127.0.0.5", station("127.0.0.5", None).await, ""),
    ];
    let mut config = config(&format!("https://{HOST}:{port}").parse().unwrap(), folder.path());
    config.private_networks = (2..=5).map(|last| format!("127.0.0.{last}/32").parse().unwrap()).collect();

    let good: &[&str] = &["127.0.0.2"];
    attempt(&config, Dns::new(&[good])).await.unwrap();
    assert_eq!(right.heads().len(), 2, "each request resolves the name and connects");
    for (address, trap, reason) in &outside {
        for answers in [vec![[*address].as_slice()], vec![good, &[*address]]] {
            let problem = attempt(&config, Dns::new(&answers)).await.unwrap_err();
            assert!(problem.reason() == "transport" && problem.to_string().contains(reason), "{address}: {problem}");
        }
        assert_eq!(trap.connections(), 2, "the attempt connected to it");
        assert!(trap.heads().iter().all(|head| !head.contains(API_KEY) && !head.contains("/files/")));
    }
    for address in [
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "10.0.0.1",
        "169.254.169.254",
        "fd00:ec2::254",
        "0.0.0.0",
    ] {
        for answers in [vec![[address].as_slice()], vec![good, &[address]]] {
            let problem = attempt(&config, Dns::new(&answers)).await.unwrap_err();
            assert!(problem.to_string().contains("which is not public"), "{address}: {problem}");
        }
    }
    attempt(&config, Dns::new(&[&["10.0.0.1", "127.0.0.2", "127.0.0.1"]]))
        .await
        .expect("one of the addresses is valid");
    assert_eq!(inside.connections(), 0);
    assert!(right.heads().iter().all(|head| head.contains(API_KEY)), "only the right server gets the key");
}

#[tokio::test]
async fn no_request_follows_a_redirect_of_any_status() {
    let trap = Station::start(Reply::correct_for).await;
    let folder = tempfile::tempdir().unwrap();
    let to = trap.base();
    for (redirected, reason) in [("/content", "redirect"), ("00000001", "redirect"), ("/file-links", "")] {
        let code = Arc::new(Mutex::new(300_u16));
        let (status, to) = (Arc::clone(&code), to.clone());
        let station = Station::start(move |path| match path.ends_with(redirected) {
            true => Reply::new(*status.lock().unwrap(), &format!("Location: {to}\r\n"), b""),
            false => Reply::correct_for(path),
        })
        .await;
        let config = config(&station.base(), folder.path());
        let fetcher = Fetcher::new(config.clone(), &PostgresConfig::default(), Context::new()).unwrap();
        for each in 300..400 {
            *code.lock().unwrap() = each;
            let deadline = Instant::now() + Duration::from_secs(20);
            if reason.is_empty() {
                let context = Context::new();
                let link = links::create(&config, &context, Mode::Test, file(1), context.clock.now()).await;
                assert!(link.unwrap_err().to_string().contains(&each.to_string()));
            } else {
                let leased = LeasedDocument::for_test(file(1), Mode::Test);
                let problem = Box::pin(fetcher.attempt(&leased, deadline)).await.unwrap_err();
                assert_eq!(problem, Problem::Redirect(each), "{redirected}");
            }
        }
        assert!(station.heads().len() >= 100);
    }
    assert_eq!(trap.connections(), 0);
}

/// An event about a file with any URL.
fn event(
    queue: &InvoiceQueue,
    file_id: FileId,
    url: &str,
) -> NewEvent<riverlock_schemas::events::file_event::FileEvent> {
    let object = serde_json::json!({"id": file_id, "fileId": file_id, "orderId": "o", "invoiceURL": url});
    let body = serde_json::json!({"id": file_id, "type": "order.invoice.created", "liveMode": false,
                                  "data": {"object": object}});
    let body = body.to_string();
    let envelope = Envelope::parse(body.as_bytes()).unwrap();
    match queue.decide(&envelope, body.as_bytes()) {
        Decision::Apply(event) => NewEvent { event, conflict: false },
        other => panic!("{url}: {other:?}"),
    }
}

#[tokio::test]
async fn an_unexpected_url_in_an_event_is_counted_and_never_used() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let (page, _recorded) = (recorder.handle(), metrics::set_default_local_recorder(&recorder));
    let (bench, trap) = (Bench::new().await, Station::start(Reply::correct_for).await);
    let (at, host) = (trap.address, bench.server.base.authority().to_owned());
    let queue = InvoiceQueue::new(&bench.config);
    let urls = [
        format!("http://{at}/files/x/content"),
        format!("https://{at}/"),
        format!("//{at}/files/x/content"),
        format!("http://{host}@{at}/files/x/content"),
        format!("http://{host}#@{at}/"),
        format!("http://{at}\\@{host}/"),
        format!("http://{at}/?{host}"),
        format!("http:/\t/{at}/"),
        format!("http://[::ffff:127.0.0.1]:{}/", at.port()),
        format!("http://0x7f.1:{}/", at.port()),
        format!("http://127。0。0。1:{}/", at.port()),
        format!("http://{host}/files/../../{at}"),
        format!("gopher://{at}/_x"),
        "file:///etc/passwd".to_owned(),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "x".repeat(5_000),
    ];
    let events = urls.iter().zip(0..).map(|(url, number)| event(&queue, file(number), url)).collect();
    let mut connection = bench.database.pool.acquire().await.unwrap();
    queue.apply(&mut connection, events, bench.context.clock.now()).await.unwrap();
    drop(connection);
    let counted = format!("riverlock_invoice_anomalies_total{{kind=\"announced_url\"}} {}", urls.len());
    assert!(page.render().contains(&counted), "{}", page.render());

    bench.start();
    bench.until("SELECT count(*) FROM invoices WHERE state = 'due'", 0).await;
    bench.stop().await;
    bench.check(0..urls.len() as u128).await;
    assert_eq!(trap.connections(), 0);
    let requests = bench.server.requests();
    assert_eq!(requests.len(), 2 * urls.len());
    assert!(requests.iter().all(|request| request.path.starts_with(&format!("/files/{}", &file(0).to_string()[..30]))));
}

#[tokio::test]
async fn proxies_from_the_environment_are_not_used() {
    if let Some(closed) = child::argument() {
        return beside_proxies(&closed).await;
    }
    let trap = Station::start(|_| Reply::new(502, "", b"")).await;
    let closed = format!("https://127.0.0.1:{}", free_port().unwrap());
    let name = "tests::confinement::proxies_from_the_environment_are_not_used";
    let mut command = child::command([""; 0], name, &closed);
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        command.env(name, trap.base().as_str());
    }
    command.env_remove("NO_PROXY").env_remove("no_proxy").env_remove("REQUEST_METHOD");
    child::run(command).await;
    let heads = trap.heads();
    assert_eq!(heads.len(), 2, "a client that uses the environment's proxy connected here: {heads:?}");
    assert!(heads.iter().all(|head| head.contains("control.example") && !head.contains("canary")), "{heads:?}");
}

/// Sends every kind of request in an environment with proxies; as a control, also with a client that uses them.
async fn beside_proxies(closed: &str) {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    server.answer(file(2), [Answer::Status(404)]);
    let config_of = |base: &Url| config(base, folder.path());
    let attempt = async |config: &InvoiceFetcherConfig, number| {
        let fetcher = Fetcher::new(config.clone(), &PostgresConfig::default(), Context::new()).unwrap();
        let leased = LeasedDocument::for_test(file(number), Mode::Test);
        Box::pin(fetcher.attempt(&leased, Instant::now() + Duration::from_secs(20))).await
    };
    let config = config_of(&server.base);
    attempt(&config, 1).await.unwrap();
    assert_eq!(attempt(&config, 2).await, Err(Problem::NotFound));
    let context = Context::new();
    links::create(&config, &context, Mode::Test, file(1), context.clock.now()).await.unwrap();
    let encrypted = config_of(&closed.parse().unwrap());
    assert_eq!(attempt(&encrypted, 3).await.unwrap_err().reason(), "transport");
    for scheme in ["http", "https"] {
        let answer = reqwest::get(format!("{scheme}://control.example/")).await;
        assert!(answer.map_or(true, |answer| answer.status() == 502));
    }
}
