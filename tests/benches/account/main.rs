//! The cost of comparing events with Digital River's list, and of reporting shipments. `make bench-account` runs it.
//!
//! - `reconcile` compares `--events` events of 30 days with PostgreSQL, which knows all of them: time, CPU time, and memory
//!   while it runs, which must not grow with the number of events.
//! - The shipments' worker reports `--shipments` shipments of as many orders at Digital River's rate limit of live mode, 250 a
//!   second, each answered after a fifth of a second: the reached rate, and the share of a core that the worker uses.
//!
//! Digital River is a process of its own that computes its answers, as PostgreSQL is; their CPU time is not counted. No number makes the
//! benchmark fail: measurements are printed next to their targets.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

mod account;
mod reconcile;
mod shipments;

use anyhow::{Context as _, bail};

/// Sizes of the measurements.
struct Options {
    events: u64,
    shipments: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    run(&arguments).await
}

async fn run(arguments: &[String]) -> anyhow::Result<()> {
    if let [command, events] = arguments
        && command == account::COMMAND
    {
        return account::serve(events.parse()?).await;
    }
    let options = options(arguments)?;
    if options.events > 0 {
        println!("{}", reconcile::measure(options.events).await?);
    }
    if options.shipments > 0 {
        println!("{}", shipments::measure(options.shipments).await?);
    }
    Ok(())
}

/// Reads `--events N` and `--shipments N`; 0 leaves a measurement out.
fn options(arguments: &[String]) -> anyhow::Result<Options> {
    let mut options = Options { events: 1_000_000, shipments: 5_000 };
    let mut arguments = arguments.iter();
    while let Some(name) = arguments.next() {
        let mut number = || -> anyhow::Result<u64> {
            let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
            value.parse().with_context(|| format!("{name} is a number, not {value}"))
        };
        match name.as_str() {
            // Added by `cargo bench`.
            "--bench" => {}
            "--events" => options.events = number()?,
            "--shipments" => options.shipments = number()?,
            other => bail!("unknown argument {other}; there are --events and --shipments"),
        }
    }
    Ok(options)
}
