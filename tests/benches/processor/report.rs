//! The printed report.

use std::{fmt::Write as _, time::Duration};

use super::{
    drain::Mark,
    floor::Understood,
    stage::{Drained, Inserted, Options, Round, Stage, Whole, rate},
};

/// Target of events per second, with broker and database on the same two cores.
const RATE_MIN: f64 = 30_000.0;
/// Target of the processor's rate, as a fraction of the rate of inserts only.
const RATIO_MIN: f64 = 0.7;
/// Most growth of memory between a fifth of the events and the end.
const GROWTH_MAX: f64 = 1.1;

/// The machine and the versions.
pub(crate) fn heading(options: &Options, stage: &Stage) -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!(
        "processor on one Apache Kafka and one PostgreSQL, on loopback: {} events of {} bytes on average\n\
         {} partitions per topic, batches of up to {} records, {} workers; processor, broker and database share {cores} cores",
        stage.backlog.events,
        stage.backlog.bytes / stage.backlog.events.max(1),
        options.partitions,
        options.batch.records_max,
        options.batch.workers
    )
}

/// The turns, with their targets.
pub(crate) fn rounds(options: &Options, rounds: &[Round]) -> String {
    let mut text = format!("\nturns of {} events, median of {} rounds\n", options.turn_events, rounds.len());
    let _ = writeln!(text, "  {:<36}{:>10}{:>32}{:>10}", "", "", "CPU µs per event", "peak");
    let _ = writeln!(
        text,
        "  {:<36}{:>10}{:>12}{:>10}{:>10}{:>10}",
        "way", "events/s", "processor", "database", "broker", "MB"
    );
    drained(&mut text, "processor", rounds, |round| &round.processor);
    inserted(&mut text, "rows of the audit only inserted", rounds, |round| round.audit_rows);
    inserted(&mut text, "all rows only inserted", rounds, |round| round.all_rows);
    understood(&mut text, rounds);
    drained(&mut text, "processor, a transaction per event", rounds, |round| &round.single);
    let processor = Spread::of(rounds.iter().map(|round| round.processor.rate()).collect());
    let ratio = |of: &dyn Fn(&Round) -> f64| {
        Spread::of(rounds.iter().map(|round| round.processor.rate() / of(round)).collect())
    };
    let (audit, all) = (ratio(&|round| round.audit_rows.rate), ratio(&|round| round.all_rows.rate));
    let single = ratio(&|round| round.single.rate());
    text.push_str("\ntargets\n");
    target(&mut text, "events/s", &processor, 0, Some(RATE_MIN));
    target(&mut text, "processor / all rows only inserted", &all, 2, Some(RATIO_MIN));
    target(&mut text, "processor / rows of the audit only", &audit, 2, None);
    target(&mut text, "processor / a transaction per event", &single, 1, None);
    let (least, possible) = (least(rounds), possible(rounds));
    let _ = writeln!(
        text,
        "\nReading, parsing and inserting alone take {least:.1} µs, so no processor can exceed {possible:.0} events/s \
         here: {:.2} of all rows only inserted.",
        possible / Spread::of(rounds.iter().map(|round| round.all_rows.rate).collect()).median,
    );
    text
}

/// Memory and rates of both reads of the whole backlog.
pub(crate) fn whole(whole: &Whole) -> String {
    let mut text = String::new();
    for (name, marks) in
        [("read for the first time", &whole.first), ("read again, every event stored already", &whole.again)]
    {
        let (Some(first), Some(last)) = (marks.first(), marks.last()) else { continue };
        let average = rate(last.records - first.records, last.at - first.at);
        let _ = writeln!(text, "\n{} events {name}: {average:.0} events/s", last.records);
        let _ = writeln!(text, "  {:>10}{:>12}{:>12}{:>12}", "events", "events/s", "memory MB", "peak MB");
        for pair in marks.windows(2) {
            let speed = rate(pair[1].records - pair[0].records, pair[1].at - pair[0].at);
            let (now, peak) = (megabytes(pair[1].memory), megabytes(pair[1].memory_peak));
            let _ = writeln!(text, "  {:>10}{speed:>12.0}{now:>12.1}{peak:>12.1}", pair[1].records);
        }
        memory(&mut text, growth(marks));
    }
    for (name, replayed) in [("planned", &whole.planned), ("done", &whole.applied)] {
        let records = usize::try_from(replayed.records).unwrap_or(usize::MAX);
        let _ = writeln!(
            text,
            "\nreplay of {records} records {name}, {} of them new: {:.0} records/s, peak {:.1} MB",
            replayed.fresh,
            rate(records, replayed.took),
            megabytes(replayed.memory_peak)
        );
        memory(&mut text, megabytes(replayed.memory) / megabytes(replayed.memory_early));
    }
    text
}

fn memory(text: &mut String, growth: f64) {
    let met = if growth <= GROWTH_MAX { "met" } else { "MISSED" };
    let _ = writeln!(text, "  memory at the end / after a fifth {growth:.2}  at most {GROWTH_MAX}  {met}");
}

/// Growth of memory between a fifth of the events, when all buffers have their full size, and the end.
fn growth(marks: &[Mark]) -> f64 {
    let after = |part: usize| megabytes(marks[(marks.len() - 1) * part / 10].memory);
    after(10) / after(2)
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 bytes")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn drained(text: &mut String, name: &str, rounds: &[Round], of: impl Fn(&Round) -> &Drained) {
    let median = |number: &dyn Fn(&Drained) -> f64| Spread::of(rounds.iter().map(|it| number(of(it))).collect()).median;
    let cpu = |which: fn(&Drained) -> Duration| median(&|it| it.micros(which(it)));
    let _ = writeln!(
        text,
        "  {name:<36}{:>10.0}{:>12.1}{:>10.1}{:>10.1}{:>10.0}",
        median(&Drained::rate),
        cpu(|it| it.processor_cpu),
        cpu(|it| it.postgres_cpu),
        cpu(|it| it.kafka_cpu),
        median(&|it| megabytes(it.memory_peak)),
    );
}

fn inserted(text: &mut String, name: &str, rounds: &[Round], of: impl Fn(&Round) -> Inserted) {
    let rate = Spread::of(rounds.iter().map(|round| of(round).rate).collect()).median;
    let database = Spread::of(rounds.iter().map(|round| micros(of(round).postgres_cpu)).collect()).median;
    let _ = writeln!(text, "  {name:<36}{rate:>10.0}{:>12}{database:>10.1}", "");
}

fn understood(text: &mut String, rounds: &[Round]) {
    let median = |number: &dyn Fn(&Understood) -> f64| {
        Spread::of(rounds.iter().map(|round| number(&round.understood)).collect()).median
    };
    let (rate, processor) = (median(&|it| rate(it.records, it.took)), median(&understood_micros));
    let broker = Spread::of(rounds.iter().map(|round| micros(round.understood_kafka_cpu)).collect()).median;
    let name = "only read, hashed and understood";
    let _ = writeln!(text, "  {name:<36}{rate:>10.0}{processor:>12.1}{:>10}{broker:>10.1}", "");
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 events")]
fn understood_micros(understood: &Understood) -> f64 {
    micros(understood.cpu) / understood.records.max(1) as f64
}

/// CPU time of reading and inserting an event, in microseconds.
fn least(rounds: &[Round]) -> f64 {
    let of = |round: &Round| {
        understood_micros(&round.understood) + micros(round.understood_kafka_cpu + round.all_rows.postgres_cpu)
    };
    Spread::of(rounds.iter().map(of).collect()).median
}

/// Events per second if all cores do nothing else.
#[expect(clippy::cast_precision_loss, reason = "few cores")]
fn possible(rounds: &[Round]) -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cores as f64 * 1e6 / least(rounds)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn target(text: &mut String, name: &str, found: &Spread, digits: usize, at_least: Option<f64>) {
    let Spread { least, median, most } = found;
    let _ = write!(text, "  {name:<36}{median:>10.digits$} (rounds {least:.digits$} to {most:.digits$})");
    let _ = match at_least {
        None => writeln!(text),
        Some(min) if *median >= min => writeln!(text, "  at least {min}  met"),
        Some(min) => writeln!(text, "  at least {min}  MISSED"),
    };
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
