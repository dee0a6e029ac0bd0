//! Measures the CPU time and memory of the fetcher, and checks that every document is stored once with the served bytes.
//!
//! `cargo bench -p riverlock-invoice-fetcher --bench invoices`; `-- --documents 3000` for a short run.
//!
//! 100 000 invoices at 250 per second, which takes 7 minutes. An invoice needs two requests (metadata, content), so this is
//! twice the 250 requests per second that Digital River allows per key; `--rate 250` stays within that limit and takes 14
//! minutes.
//!
//! PostgreSQL and the sandbox are separate processes, so CPU time and memory of this process are those of the fetcher. One
//! document in twenty fails at first: not found yet, a server error, truncated, an HTML page, slow.

#![expect(clippy::print_stdout, reason = "a benchmark is a command-line tool")]

use std::{
    collections::HashMap,
    net::SocketAddr,
    num::NonZeroU32,
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use riverlock_invoice_fetcher::{
    AccountConfig, Archive, InvoiceFetcherConfig, InvoiceQueue, fetch, metrics::ATTEMPTS, queue::view,
};
use riverlock_ledger::{NewEvent, PostgresConfig, Projection as _, postgres};
use riverlock_runtime::{Context, Secret, telemetry};
use riverlock_sandbox::{
    Api, Clock, Fault, FaultRule, Faults, SandboxConfig,
    data::pdf::{self, Purpose},
    serve,
    stack::{self, usage},
};
use riverlock_schemas::{EventId, FileId, Mode, OrderId, events::file_event};
use sqlx::PgConnection;
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

/// Default number of documents.
const DOCUMENTS: u32 = 100_000;
/// Default requests per second: two for each of 250 documents.
const REQUESTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(500).expect("500 is not 0");
/// Documents that are announced or read at once.
const PAGE: usize = 1_000;
/// Interval at which the queue is counted.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which progress and memory are printed.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);
/// Maximum growth of the memory from the first quarter of the run to the last, bytes, to allow for the allocator.
const GROWTH_MAX: u64 = 16 << 20;

/// Command-line options.
struct Options {
    documents: u32,
    rate: NonZeroU32,
    /// The sandbox's address; only in the sandbox's process.
    sandbox: Option<SocketAddr>,
}

impl Options {
    fn read() -> anyhow::Result<Self> {
        let mut options = Self { documents: DOCUMENTS, rate: REQUESTS_PER_SECOND, sandbox: None };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{name} needs a value"));
            match name.as_str() {
                "--documents" => options.documents = value()?.parse().context("--documents")?,
                "--rate" => options.rate = value()?.parse().context("--rate")?,
                "--sandbox" => options.sandbox = Some(value()?.parse().context("--sandbox")?),
                "--bench" => {} // cargo passes it
                _ => bail!("{name} is unknown; there are --documents and --rate"),
            }
        }
        Ok(options)
    }

    /// The file ids, the same in every run.
    fn files(&self) -> impl Iterator<Item = FileId> {
        let mut random = fastrand::Rng::with_seed(1);
        (0..self.documents).map(move |_| Purpose::Invoice.mark(Uuid::from_u128(random.u128(..))).into())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let options = Options::read()?;
    match options.sandbox {
        Some(address) => serve_sandbox(address, &options).await,
        None => measure(&options).await,
    }
}

async fn serve_sandbox(address: SocketAddr, options: &Options) -> anyhow::Result<ExitCode> {
    let fault = |fault| FaultRule { fault, file_id: None, percent: 1, times: Some(1) };
    let rules =
        [Fault::NotFound, Fault::ServerError, Fault::Truncated, Fault::Html, Fault::Slow { milliseconds: 3_000 }];
    let config = SandboxConfig {
        rate_limit_per_second: Some(options.rate),
        faults: Faults { seed: 1, rules: rules.map(fault).into() },
        ..SandboxConfig::default()
    };
    let listener = TcpListener::bind(address).await?;
    serve(listener, Api::new(&config, Clock::system()), std::future::pending()).await?;
    Ok(ExitCode::SUCCESS)
}

async fn measure(options: &Options) -> anyhow::Result<ExitCode> {
    let folder = stack::temporary_dir()?;
    let server = stack::Postgres::start(&folder.path().join("postgres"), stack::ports::free_port()?).await?;
    let database = PostgresConfig { url: Secret::new(server.url()), ..PostgresConfig::default() };
    let mut connection = database.connect().await?;
    postgres::migrate(&mut connection).await?;
    let address = SocketAddr::from(([127, 0, 0, 1], stack::ports::free_port()?));
    let _sandbox = start_sandbox(address, options, folder.path()).await?;

    let config = config(address, options, &folder.path().join("invoices"))?;
    let context = Context::new();
    announce(&mut connection, &config, options, &context).await?;
    println!("{} documents, {} requests per second, 5 % faults", options.documents, options.rate);

    let page = telemetry::metrics()?;
    // Resets the peak memory, so that it is measured from here on.
    let _not_permitted = std::fs::write("/proc/self/clear_refs", "5");
    let (started, cpu) = (Instant::now(), cpu_seconds()?);
    fetch(config.clone(), &database, &context)?;
    let memory = tokio::select! {
        memory = until_done(&mut connection, options) => memory?,
        // Like the services: a histogram grows without upkeep.
        () = telemetry::upkeep(page.clone()) => bail!("the upkeep of the metrics ended"),
    };
    let (elapsed, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    let (_, peak) = usage::memory(own_pid()?)?;
    context.shutdown.stop();
    ensure!(context.shutdown.wait(Duration::from_secs(30)).await, "the fetcher did not shut down in time");

    println!("time              {elapsed:.1} s");
    println!("documents         {:.1} per second", f64::from(options.documents) / elapsed);
    println!("CPU               {:.1} % of one core", 100.0 * cpu / elapsed);
    println!("peak memory       {:.1} MiB", mib(peak));
    let is_flat = report_growth(&memory);
    report_attempts(&page.render());
    let is_right = verify(&mut connection, &config, options).await?;
    Ok(if is_flat && is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Compares the median memory of the first quarter of the run with that of the last.
fn report_growth(memory: &[u64]) -> bool {
    let quarter = memory.len().div_ceil(4);
    let median = |samples: &[u64]| {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    };
    let (first, last) = (median(&memory[..quarter]), median(&memory[memory.len() - quarter..]));
    println!("memory            {:.1} MiB in the first quarter, {:.1} MiB in the last", mib(first), mib(last));
    last.saturating_sub(first) <= GROWTH_MAX
}

/// Attempts by outcome and reason, from the fetcher's own metrics.
fn report_attempts(page: &str) {
    for line in page.lines().filter(|line| line.starts_with(ATTEMPTS) && !line.ends_with(" 0")) {
        println!("attempts          {}", line.trim_start_matches(ATTEMPTS));
    }
}

async fn start_sandbox(address: SocketAddr, options: &Options, folder: &Path) -> anyhow::Result<stack::Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--sandbox", &address.to_string(), "--rate", &options.rate.to_string()]);
    let process = stack::Process::spawn("sandbox", &command, &folder.join("sandbox.log"))?;
    process.until_ready(Duration::from_secs(30), || async { TcpStream::connect(address).await.is_ok() }).await?;
    Ok(process)
}

fn config(address: SocketAddr, options: &Options, folder: &Path) -> anyhow::Result<InvoiceFetcherConfig> {
    let account = AccountConfig {
        api_key: Secret::new("sandbox-confidential-key"),
        requests_per_second: Some(options.rate.get()),
    };
    Ok(InvoiceFetcherConfig {
        api_base_url: format!("http://{address}").parse()?,
        live: Some(account),
        store: format!("file://{}", folder.display()).parse()?,
        ..InvoiceFetcherConfig::default()
    })
}

/// Announces every document like the consumer.
async fn announce(
    connection: &mut PgConnection,
    config: &InvoiceFetcherConfig,
    options: &Options,
    context: &Context,
) -> anyhow::Result<()> {
    let queue = InvoiceQueue::new(config);
    let mut files = options.files().peekable();
    while files.peek().is_some() {
        let page = files.by_ref().take(PAGE).map(|file_id| {
            let event = file_event::FileEvent {
                event_id: EventId::parse(file_id.to_string())?,
                created_time: None,
                order_id: OrderId::parse(file_id.to_string())?,
                mode: Mode::Live,
                file_id,
                purpose: file_event::Purpose::Invoice,
                announced_url: None,
            };
            Ok(NewEvent { event, conflict: false })
        });
        let page = page.collect::<anyhow::Result<Vec<_>>>()?;
        queue.apply(connection, page, context.clock.now()).await?;
    }
    Ok(())
}

/// Waits until no document is due. Returns the memory of this process over time, bytes.
async fn until_done(connection: &mut PgConnection, options: &Options) -> anyhow::Result<Vec<u64>> {
    let (started, mut memory) = (Instant::now(), Vec::new());
    let (mut reported, mut cpu) = (Instant::now(), cpu_seconds()?);
    loop {
        let due: i64 =
            sqlx::query_scalar("SELECT count(*) FROM invoices WHERE state = 'due'").fetch_one(&mut *connection).await?;
        memory.push(usage::memory(own_pid()?)?.0);
        if due == 0 {
            return Ok(memory);
        }
        if reported.elapsed() >= REPORT_INTERVAL {
            let now = cpu_seconds()?;
            println!(
                "  {:4.0} s: {} done, {:.1} MiB, {:.1} % of one core",
                started.elapsed().as_secs_f64(),
                i64::from(options.documents) - due,
                mib(memory[memory.len() - 1]),
                100.0 * (now - cpu) / reported.elapsed().as_secs_f64()
            );
            (reported, cpu) = (Instant::now(), now);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Compares every document with what the sandbox serves.
async fn verify(
    connection: &mut PgConnection,
    config: &InvoiceFetcherConfig,
    options: &Options,
) -> anyhow::Result<bool> {
    let archive = Archive::open(config)?;
    let (mut stored, mut lost, mut wrong) = (0_u64, 0_u64, 0_u64);
    let mut files = options.files().peekable();
    while files.peek().is_some() {
        let page: Vec<FileId> = files.by_ref().take(PAGE).collect();
        let rows = view::stored(connection, &page).await?;
        let rows: HashMap<_, _> = rows.into_iter().map(|row| (row.file_id, row)).collect();
        for file_id in page {
            let Some(row) = rows.get(&file_id) else {
                lost += 1;
                continue;
            };
            let (kept, _) = archive.digest(&row.object_key).await?;
            let served = pdf::invoice_sha256(&file_id.to_string());
            stored += 1;
            wrong += u64::from(kept != row.sha256 || kept.to_string() != served);
        }
    }
    let messages: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox WHERE kind = 'invoice.stored'")
        .fetch_one(&mut *connection)
        .await?;
    let folder = config.store.to_file_path().map_err(|()| anyhow::anyhow!("the store is not a directory"))?;
    let double = (count_files(&folder)? + u64::try_from(messages)?).saturating_sub(2 * stored);
    println!("stored            {stored}");
    println!("lost              {lost}");
    println!("other bytes       {wrong}");
    println!("double            {double} (files and messages beyond one per document)");
    Ok(stored == u64::from(options.documents) && lost == 0 && wrong == 0 && double == 0)
}

fn count_files(folder: &Path) -> anyhow::Result<u64> {
    let mut count = 0;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        count += if path.is_dir() { count_files(&path)? } else { 1 };
    }
    Ok(count)
}

/// CPU time of this process, in user and kernel mode.
fn cpu_seconds() -> anyhow::Result<f64> {
    Ok(usage::own_cpu(own_pid()?)?.as_secs_f64())
}

fn own_pid() -> anyhow::Result<i32> {
    Ok(i32::try_from(std::process::id())?)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
