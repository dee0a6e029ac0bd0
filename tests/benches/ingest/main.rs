//! The cost of accepting a webhook. `make bench` runs it.
//!
//! In one run, on one broker, in turn: a null route, which reads a request and answers 202; one that also verifies the
//! signature and parses the envelope; and the complete ingest. All three use ingest's listener, each in a separate process,
//! so that a difference in CPU time is a difference in work. `--against PROGRAM` adds the ingest of another version. The
//! broker's CPU time counts as well. There are three loads: 256 and 64 connections that send one request after the other, and
//! 5 000 events/s whatever the answers. Then the broker is paused for 8 s.
//!
//! Only the ratios within one run can be compared, not numbers of different machines or runs. No number makes the benchmark
//! fail: measurements are printed next to their targets.
//!
//! What the full way costs beyond verify-and-parse is mostly requests to Kafka and the wake-ups around them. librdkafka
//! sends one request per partition: `--partitions 1` shows the difference, `--property linger.ms=20` that of longer waits. A
//! process that does nothing but hand the same records to librdkafka (`floor`) is measured in the same rounds: ingest cannot
//! cost less than that and verify-and-parse together.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its results")]

mod floor;
mod report;
mod rounds;
mod server;

use anyhow::{Context as _, bail};

use self::{
    rounds::{Options, Stage},
    server::Route,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    run(&arguments).await
}

async fn run(arguments: &[String]) -> anyhow::Result<()> {
    if let [command, route, port, brokers, properties @ ..] = arguments
        && command == server::COMMAND
    {
        return server::serve(Route::from_name(route)?, port.parse().context("no port")?, brokers, properties).await;
    }
    if let [command, brokers, rate, seconds, properties @ ..] = arguments
        && command == floor::COMMAND
    {
        return floor::produce(brokers, rate.parse()?, seconds.parse()?, properties);
    }
    let options = options(arguments)?;
    let stage = Stage::start(&options).await?;
    println!("{}", report::heading(&options, &stage));
    let measured = stage.measure(&options).await?;
    println!("{}", report::table(&measured));
    stage.stop().await
}

/// Reads `--broker kafka|embedded`, `--partitions N`, `--property NAME=VALUE` (of librdkafka, as in `kafka.properties`),
/// `--rate N` (of the paced load), `--rounds N`, `--seconds N`, `--against PROGRAM` (the `riverlock` of another version),
/// `--only CONNECTIONS` (one load; 0 is the paced one) and `--no-pause`.
fn options(arguments: &[String]) -> anyhow::Result<Options> {
    let mut options = Options::default();
    let mut arguments = arguments.iter();
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{name} needs a value"));
        match name.as_str() {
            // Added by `cargo bench`.
            "--bench" => {}
            "--broker" => {
                options.embedded = match value()?.as_str() {
                    "kafka" => false,
                    "embedded" => true,
                    other => bail!("--broker is kafka or embedded, not {other}"),
                };
            }
            "--rounds" => options.rounds = value()?.parse().context("--rounds is a number")?,
            "--property" => options.properties.push(value()?.clone()),
            "--rate" => options.rate = value()?.parse().context("--rate is a number")?,
            "--partitions" => options.partitions = value()?.parse().context("--partitions is a number")?,
            "--seconds" => options.seconds = value()?.parse().context("--seconds is a number")?,
            "--against" => options.against = Some(value()?.into()),
            "--only" => options.only = Some(value()?.parse().context("--only is a number")?),
            "--no-pause" => options.pause = false,
            other => bail!(
                "unknown argument {other}; there are --against, --broker, --no-pause, --only, --partitions, --property, \
                 --rate, --rounds, --seconds"
            ),
        }
    }
    anyhow::ensure!(options.rounds > 0 && options.seconds > 0, "--rounds and --seconds must be at least 1");
    anyhow::ensure!(options.rate > 0, "--rate must be at least 1");
    Ok(options)
}
