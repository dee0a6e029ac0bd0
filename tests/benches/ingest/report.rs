//! The printed report.

use std::{fmt::Write as _, time::Duration};

use super::{
    rounds::{Level, Measured, Options, Round, Stage, Turn},
    server::Route,
};

/// The target for ingest's CPU time, as a multiple of verifying and parsing alone.
const FULL_TO_VERIFY_MAX: f64 = 1.35;
/// The target for the 99th percentile of latency at half of the highest rate.
const P99_MAX: Duration = Duration::from_millis(20);

/// The machine and the versions.
pub(crate) fn heading(options: &Options, stage: &Stage) -> String {
    let bytes: usize = stage.bodies.iter().map(bytes::Bytes::len).sum();
    let broker = if options.embedded {
        "the EMBEDDED broker (librdkafka's mock cluster, in the memory of the load generator: not Kafka's numbers)"
    } else {
        "one Apache Kafka, on loopback"
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!(
        "ingest on {broker}, {} partitions per topic\n{} different bodies of {} bytes on average; load generator, broker and receivers share {cores} cores",
        options.partitions,
        stage.bodies.len(),
        bytes / stage.bodies.len()
    )
}

/// All numbers, with their targets.
pub(crate) fn table(measured: &Measured) -> String {
    let mut text = format!("\nhighest rate sustained by ingest: {} events/s\n", measured.highest);
    level(&mut text, "half of the highest rate", &measured.at_half);
    level(&mut text, "the highest rate", &measured.at_highest);
    text.push_str("\ntargets\n");
    for (when, at) in [("half", &measured.at_half), ("highest", &measured.at_highest)] {
        let ratio = ratio(at, Route::Full, Route::Verify);
        let met = if ratio.median <= FULL_TO_VERIFY_MAX { "met" } else { "MISSED" };
        let _ = writeln!(
            text,
            "  CPU, full / verify-and-parse, at {when:8} {:5.2} (rounds {:.2} to {:.2})  at most {FULL_TO_VERIFY_MAX}  {met}",
            ratio.median, ratio.least, ratio.most
        );
    }
    let p99 = latency(&measured.at_half, Route::Full, |turn| turn.outcome.latency.percentile(99));
    let met = if p99 < ms(P99_MAX) { "met" } else { "MISSED" };
    let _ = writeln!(
        text,
        "  p99 of ingest at half of the highest rate {p99:8.1} ms              below {} ms  {met}",
        ms(P99_MAX)
    );
    text
}

fn level(text: &mut String, name: &str, level: &Level) {
    let _ = writeln!(text, "\n{name}: {} events/s, median of {} rounds", level.rate, level.rounds.len());
    let _ = writeln!(
        text,
        "  {:<18}{:>14}{:>12}{:>10}{:>10}{:>10}",
        "route", "CPU µs/event", "202/s", "p50 ms", "p99 ms", "max ms"
    );
    for route in Route::ALL {
        let achieved = spread(level, route, |turn| turn.outcome.accepted_per_second()).median;
        let _ = writeln!(
            text,
            "  {:<18}{:>14.1}{:>12.0}{:>10.1}{:>10.1}{:>10.1}",
            route.name(),
            spread(level, route, |turn| turn.cpu_us_per_event).median,
            achieved,
            latency(level, route, |turn| turn.outcome.latency.percentile(50)),
            latency(level, route, |turn| turn.outcome.latency.percentile(99)),
            latency(level, route, |turn| turn.outcome.latency.max()),
        );
    }
    let floor = Spread::of(level.rounds.iter().map(|round| round.floor_us).collect()).median;
    let _ = writeln!(text, "  {:<18}{floor:>14.1}", "librdkafka alone");
    let over = |under| ratio(level, Route::Full, under).median;
    let sum = |round: &Round| turn(round, Route::Verify).cpu_us_per_event + round.floor_us;
    let over_sum = |round: &Round| turn(round, Route::Full).cpu_us_per_event / sum(round);
    let over_sum = Spread::of(level.rounds.iter().map(over_sum).collect()).median;
    let _ = writeln!(
        text,
        "  full / verify-and-parse {:.2}, full / (verify-and-parse + librdkafka alone) {over_sum:.2}, full / null {:.2}",
        over(Route::Verify),
        over(Route::Null)
    );
}

/// One number per round.
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { least: values[0], median: values[values.len() / 2], most: values[values.len() - 1] }
    }
}

fn turn(round: &Round, route: Route) -> &Turn {
    round.turns.iter().find(|turn| turn.route == route).expect("every route has a turn in every round")
}

fn spread(level: &Level, route: Route, number: impl Fn(&Turn) -> f64) -> Spread {
    Spread::of(level.rounds.iter().map(|round| number(turn(round, route))).collect())
}

/// The ratio of the CPU times of two routes in each round, which slow changes of the machine do not affect.
fn ratio(level: &Level, over: Route, under: Route) -> Spread {
    let of = |round: &Round| turn(round, over).cpu_us_per_event / turn(round, under).cpu_us_per_event;
    Spread::of(level.rounds.iter().map(of).collect())
}

/// A latency in milliseconds.
fn latency(level: &Level, route: Route, of: impl Fn(&Turn) -> Duration) -> f64 {
    spread(level, route, |turn| ms(of(turn))).median
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
