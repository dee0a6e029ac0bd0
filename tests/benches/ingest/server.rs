//! The compared receivers, each in a separate process: this program with other arguments.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt as _;
use riverlock_ingest::{
    IngestConfig,
    auth::signature::{HEADER, Verifier},
};
use riverlock_runtime::{
    Clock as _, Context, Secret, SystemClock, admin,
    admin::AdminConfig,
    kafka::KafkaConfig,
    shutdown::GRACE,
    telemetry::{self, TelemetryConfig},
};
use riverlock_sandbox::stack::{Process, ports};
use riverlock_schemas::Envelope;
use riverlock_tests::load::Target;
use tokio::net::TcpListener;

/// The first argument of a serving process.
pub(crate) const COMMAND: &str = "serve";
/// What the names of topics of another version begin with.
pub(crate) const OTHER_PREFIX: &str = "other";
/// The endpoint.
pub(crate) const PATH: &str = "/webhooks/digital-river";
/// Its secret.
pub(crate) const SECRET: &str = "whsec_0123456789abcdef";
/// How long a receiver may take to accept its first event.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// The answer of routes without Kafka: as long as ingest's receipts.
const RECEIPT: &str = r#"{"eventId":"00000000-0000-4000-8000-000000000000","topic":"riverlock.raw.orders","partition":0,"offset":123456}"#;

/// How a request is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Read it.
    Null,
    /// Verify its signature and parse its envelope.
    Verify,
    /// As ingest does.
    Full,
    /// As the ingest of another version does: the program of `--against`.
    Other,
}

impl Route {
    /// Those that this program serves.
    pub(crate) const OWN: [Self; 3] = [Self::Null, Self::Verify, Self::Full];
    pub(crate) const ALL: [Self; 4] = [Self::Null, Self::Verify, Self::Full, Self::Other];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Verify => "verify-and-parse",
            Self::Full => "full",
            Self::Other => "other version",
        }
    }

    pub(crate) fn from_name(name: &str) -> anyhow::Result<Self> {
        Self::OWN.into_iter().find(|route| route.name() == name).with_context(|| format!("there is no route {name}"))
    }
}

/// A running receiver.
pub(crate) struct Receiver {
    pub(crate) route: Route,
    pub(crate) address: SocketAddr,
    process: Process,
}

impl Receiver {
    /// Starts a receiver, and waits until it accepts events.
    pub(crate) async fn start(route: Route, brokers: &str, properties: &[String], home: &Path) -> anyhow::Result<Self> {
        let port = ports::free_port()?;
        let mut command = Command::new(std::env::current_exe().context("this program has no path")?);
        command.args([COMMAND, route.name(), &port.to_string(), brokers]).args(properties);
        Self::until_ready(route, &command, port, home).await
    }

    /// Starts the ingest of another version, whose topics have the prefix [`OTHER_PREFIX`].
    pub(crate) async fn start_other(program: &Path, brokers: &str, home: &Path) -> anyhow::Result<Self> {
        let port = ports::free_port()?;
        let config = format!(
            "[kafka]\nbrokers = \"{brokers}\"\ntopic_prefix = \"{OTHER_PREFIX}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [ingest]\nlisten = \"127.0.0.1:{port}\"\n[[ingest.endpoints]]\nname = \"bench\"\npath = \"{PATH}\"\n\
             secrets = [{{ id = \"bench\", secret = \"{SECRET}\" }}]\n"
        );
        let file = home.join("other.toml");
        std::fs::write(&file, config)?;
        let mut command = Command::new(program);
        command.arg("--config").arg(file).arg("ingest");
        Self::until_ready(Route::Other, &command, port, home).await
    }

    async fn until_ready(route: Route, command: &Command, port: u16, home: &Path) -> anyhow::Result<Self> {
        let process = Process::spawn(route.name(), command, &home.join(format!("{}.log", route.name())))?;
        let receiver = Self { route, address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), process };
        let target = receiver.target(
            Arc::from([bytes::Bytes::from_static(
                br#"{"id":"first","type":"bench.first","data":{"object":{"id":"first"}}}"#,
            )]),
            1,
        );
        let takes = || async { target.once().await.is_ok_and(|status| status == 202) };
        receiver.process.until_ready(READY_WITHIN, takes).await?;
        Ok(receiver)
    }

    pub(crate) fn target(&self, bodies: Arc<[bytes::Bytes]>, connections: usize) -> Target {
        let (path, secret) = (PATH.to_owned(), SECRET.to_owned());
        Target { address: self.address, path, secret, bodies, connections }
    }

    /// CPU time used so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        cpu_of(self.process.pid()).with_context(|| format!("the {} receiver has ended", self.route.name()))
    }
}

/// User and system CPU time of a process.
pub(crate) fn cpu_of(pid: impl std::fmt::Display) -> anyhow::Result<Duration> {
    /// In `/proc` its unit is hundredths of a second, independent of the kernel's tick.
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in brackets, may hold anything; user and system time are the 12th and 13th field after it.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: Vec<u32> = fields.skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    anyhow::ensure!(ticks.len() == 2, "cannot read /proc/…/stat: {stat}");
    Ok(TICK * ticks.iter().sum())
}

/// Serves a route until it is killed. The properties, `name=value`, are for the producer.
pub(crate) async fn serve(route: Route, port: u16, brokers: &str, properties: &[String]) -> anyhow::Result<()> {
    telemetry::init_logs(&TelemetryConfig::default())?;
    let context = Context::new();
    context.shutdown.on_signals()?;
    // As in the service: counters cost CPU time as well.
    let admin = AdminConfig { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) };
    admin::start(&admin, telemetry::metrics()?, &context).await?;

    let config = config(port)?;
    match route {
        Route::Full => {
            let kafka = kafka(brokers, properties)?;
            riverlock_ingest::start(config, &kafka, &context).await?;
        }
        Route::Other => bail!("another version is a program of its own"),
        Route::Null => listen(Router::new().fallback(read), config, &context).await?,
        Route::Verify => {
            let verifier = Arc::new(Verifier::new(&config.endpoints[0]));
            listen(Router::new().fallback(verify).with_state(verifier), config, &context).await?;
        }
    }
    if context.shutdown.wait(GRACE).await { Ok(()) } else { bail!("the receiver failed") }
}

/// Ingest's settings, with these properties, `name=value`.
pub(crate) fn kafka(brokers: &str, properties: &[String]) -> anyhow::Result<KafkaConfig> {
    let property = |text: &String| {
        let (name, value) = text.split_once('=').with_context(|| format!("{text} is not name=value"))?;
        Ok((name.to_owned(), Secret::new(value)))
    };
    let properties = properties.iter().map(property).collect::<anyhow::Result<_>>()?;
    let kafka = KafkaConfig { brokers: brokers.to_owned(), properties, ..KafkaConfig::default() };
    kafka.validate()?;
    Ok(kafka)
}

/// Puts a router behind ingest's listener.
async fn listen(router: Router, config: IngestConfig, context: &Context) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.listen).await?;
    let shutdown = context.shutdown.clone();
    context.shutdown.spawn("bench", async move {
        riverlock_ingest::serve(listener, router, config.limits, shutdown).await;
        Ok::<_, std::convert::Infallible>(())
    });
    Ok(())
}

fn config(port: u16) -> anyhow::Result<IngestConfig> {
    let endpoint = serde_json::json!({
        "name": "bench",
        "path": PATH,
        "secrets": [{ "id": "bench", "secret": SECRET }],
    });
    Ok(IngestConfig {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        endpoints: vec![serde_json::from_value(endpoint)?],
        ..IngestConfig::default()
    })
}

fn accepted() -> Response {
    (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, "application/json")], RECEIPT).into_response()
}

async fn read(body: Body) -> Response {
    match body.collect().await {
        Ok(_) => accepted(),
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}

async fn verify(State(verifier): State<Arc<Verifier>>, headers: HeaderMap, body: Body) -> Response {
    let Ok(body) = body.collect().await else { return StatusCode::BAD_REQUEST.into_response() };
    let body = body.to_bytes();
    let signatures = headers.get_all(HEADER).iter().map(axum::http::HeaderValue::as_bytes);
    if verifier.verify(signatures, &body, SystemClock.now()).is_err() {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    match Envelope::parse(&body) {
        Ok(_) => accepted(),
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}
