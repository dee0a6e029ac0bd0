//! The printed report.

use std::{fmt::Write as _, time::Duration};

use super::{
    rounds::{CONNECTIONS, Level, Load, Measured, Options, Round, Stage, Turn},
    server::Route,
};

/// The target for ingest's CPU time with the most connections, as a multiple of verifying and parsing alone.
const FULL_TO_VERIFY_MAX: f64 = 1.4;
/// The slowest answer while the broker is paused: Digital River gives up after 3 s.
const PAUSE_ANSWER_MAX: Duration = Duration::from_millis(2_500);

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
    let mut text = String::new();
    for one in &measured.levels {
        level(&mut text, one);
    }
    text.push_str("\ntargets\n");
    for level in &measured.levels {
        if matches!(level.load, Load::Connections(_)) {
            let Some(ratio) = ratio(level, Route::Full, Route::Verify, |turn| turn.service_us) else { continue };
            let target = (level.load == Load::Connections(CONNECTIONS)).then_some(FULL_TO_VERIFY_MAX);
            target_line(&mut text, level, "service, full / verify-and-parse", &ratio, target);
        }
        if let Some(ratio) = ratio(level, Route::Full, Route::Other, total_us) {
            target_line(&mut text, level, "service and broker, full / other version", &ratio, None);
        }
        if let Some(ratio) = ratio(level, Route::Full, Route::Other, |turn| turn.outcome.accepted_per_second()) {
            target_line(&mut text, level, "events/s, full / other version", &ratio, None);
        }
    }
    for (route, outcome) in &measured.pause {
        let slowest = outcome.answer.max();
        let met = if slowest <= PAUSE_ANSWER_MAX && outcome.timeouts == 0 { "met" } else { "MISSED" };
        let _ = writeln!(
            text,
            "  {}: slowest answer while the broker is paused {:.0} ms, {} without an answer, answers {:?}; at most {:.0} ms  {met}",
            route.name(),
            ms(slowest),
            outcome.timeouts,
            outcome.answers,
            ms(PAUSE_ANSWER_MAX),
        );
    }
    text
}

fn target_line(text: &mut String, level: &Level, what: &str, ratio: &Spread, most: Option<f64>) {
    let Spread { least, median, most: greatest } = ratio;
    let target = most.map_or_else(String::new, |most| {
        format!("  at most {most}  {}", if *median <= most { "met" } else { "MISSED" })
    });
    let _ = writeln!(text, "  {}: {what} {median:.2} (rounds {least:.2} to {greatest:.2}){target}", level.load);
}

fn level(text: &mut String, level: &Level) {
    let _ = writeln!(text, "\n{}, median of {} rounds", level.load, level.rounds.len());
    let _ = writeln!(
        text,
        "  {:<18}{:>12}{:>12}{:>12}{:>10}{:>10}{:>10}{:>10}",
        "CPU µs/event", "service", "broker", "both", "202/s", "p50 ms", "p99 ms", "max ms"
    );
    for route in Route::ALL {
        let number = |of: fn(&Turn) -> f64| spread(level, route, of).map(|spread| spread.median);
        let Some(service) = number(|turn| turn.service_us) else { continue };
        let of = |of| number(of).unwrap_or(f64::NAN);
        let _ = writeln!(
            text,
            "  {:<18}{service:>12.1}{:>12.1}{:>12.1}{:>10.0}{:>10.1}{:>10.1}{:>10.1}",
            route.name(),
            of(|turn| turn.broker_us),
            of(total_us),
            of(|turn| turn.outcome.accepted_per_second()),
            of(|turn| ms(turn.outcome.latency.percentile(50))),
            of(|turn| ms(turn.outcome.latency.percentile(99))),
            of(|turn| ms(turn.outcome.latency.max())),
        );
    }
    let floor = Spread::of(level.rounds.iter().map(|round| round.floor_us).collect()).median;
    let _ = writeln!(text, "  {:<18}{floor:>12.1}", "librdkafka alone");
}

fn total_us(turn: &Turn) -> f64 {
    turn.service_us + turn.broker_us
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

fn turn(round: &Round, route: Route) -> Option<&Turn> {
    round.turns.iter().find(|turn| turn.route == route)
}

/// `None` if the route was not measured.
fn spread(level: &Level, route: Route, number: impl Fn(&Turn) -> f64) -> Option<Spread> {
    let values: Option<Vec<f64>> = level.rounds.iter().map(|round| turn(round, route).map(&number)).collect();
    values.map(Spread::of)
}

/// The ratio of a number of two routes in each round, which slow changes of the machine do not affect.
fn ratio(level: &Level, over: Route, under: Route, number: impl Fn(&Turn) -> f64) -> Option<Spread> {
    let of = |round| Some(number(turn(round, over)?) / number(turn(round, under)?));
    level.rounds.iter().map(of).collect::<Option<Vec<f64>>>().map(Spread::of)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
