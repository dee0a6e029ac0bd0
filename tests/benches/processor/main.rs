//! The cost of storing events from Kafka in PostgreSQL. `make bench-processor` runs it.
//!
//! In one run, on one Apache Kafka and one PostgreSQL, in turn:
//!
//! - the processor, in a separate process, drains a backlog of events into an empty database;
//! - the same rows are only inserted: those of `events` alone, and all that the processor writes, each batch with one
//!   `INSERT … SELECT FROM unnest` per table, without reading, parsing, querying or applying anything. That is the cost of
//!   PostgreSQL on this machine, which the processor is compared with;
//! - the events are only read, hashed and parsed. Together with the inserts, that is a lower bound for any processor;
//! - the processor with one transaction per event.
//!
//! Then the whole backlog is read to its end, and once more after the offsets were reset, while memory is measured. Finally
//! the rows of every tenth order are deleted, and `riverlock replay` plans and applies their restoration.
//!
//! Only the ratios within one run can be compared, not numbers of different machines or runs. No number makes the benchmark
//! fail: measurements are printed next to their targets.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its results")]

mod backlog;
mod drain;
mod floor;
mod insert;
mod replay;
mod report;
mod stage;

use anyhow::{Context as _, bail};

use self::stage::{Options, Stage};

/// The bytes that `--batch` assumes for an event.
const EVENT_BYTES: usize = 4 * 1024;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    run(&arguments).await
}

async fn run(arguments: &[String]) -> anyhow::Result<()> {
    if let [command, brokers, url, settings] = arguments
        && command == drain::COMMAND
    {
        return drain::serve(brokers, url, settings).await;
    }
    if let [command, brokers, events] = arguments
        && command == floor::COMMAND
    {
        return floor::read(brokers, events.parse()?);
    }
    if let [command, plan, brokers, url] = arguments
        && command == replay::COMMAND
    {
        return replay::replay(plan, brokers, url).await;
    }
    let options = options(arguments)?;
    let mut stage = Stage::start(&options).await?;
    println!("{}", report::heading(&options, &stage));
    let rounds = stage.rounds(&options).await?;
    println!("{}", report::rounds(&options, &rounds));
    let whole = stage.whole(&options).await?;
    println!("{}", report::whole(&whole));
    stage.stop().await
}

/// Reads `--events N`, `--turn-events N`, `--rounds N`, `--partitions N`, `--batch N`, `--workers N` and
/// `--property NAME=VALUE` (of librdkafka, as in `kafka.properties`).
fn options(arguments: &[String]) -> anyhow::Result<Options> {
    let mut options = Options::default();
    let mut arguments = arguments.iter();
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{name} needs a value"));
        let number = |text: &String| text.parse::<usize>().with_context(|| format!("{name} is a number, not {text}"));
        match name.as_str() {
            // Added by `cargo bench`.
            "--bench" => {}
            "--events" => options.events = number(value()?)?,
            "--turn-events" => options.turn_events = number(value()?)?,
            "--rounds" => options.rounds = number(value()?)?,
            "--partitions" => options.partitions = value()?.parse().context("--partitions is a number")?,
            "--batch" => {
                options.batch.records_max = number(value()?)?;
                options.batch.bytes_max = options.batch.records_max.saturating_mul(EVENT_BYTES);
            }
            "--workers" => options.batch.workers = number(value()?)?,
            "--property" => {
                let text = value()?;
                let (key, value) =
                    text.split_once('=').with_context(|| format!("--property is NAME=VALUE, not {text}"))?;
                options.properties.insert(key.to_owned(), value.to_owned());
            }
            other => bail!(
                "unknown argument {other}; there are --events, --turn-events, --rounds, --partitions, --batch, --property, --workers"
            ),
        }
    }
    anyhow::ensure!(options.rounds > 0 && options.turn_events > 0, "--rounds and --turn-events must be at least 1");
    anyhow::ensure!(options.turn_events <= options.events, "--turn-events must not be more than --events");
    options.batch.validate("--batch/--workers")?;
    Ok(options)
}
