//! Redriving and discarding: one dead letter after the other, at a limited rate.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use riverlock_invoice_fetcher::InvoiceQueue;
use riverlock_ledger::{Error, postgres::bounded};
use riverlock_processor::Orders;
use riverlock_recovery::dead_letters::{self, Cursor, Filter, LetterPosition, RedriveResult, Request, Run, SkipReason};
use riverlock_runtime::{Clock as _, ConfigError, SystemClock};
use riverlock_schemas::kafka::topics::{RawConsumer, Topics, without_cluster};
use serde::Serialize;
use sqlx::PgConnection;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    config::Config,
    consumers, exit,
    terminal::{
        out::{self, Output},
        progress,
        text::{count, printable},
    },
};

use super::{
    args::{ActionOptions, LetterSelector},
    lookup::{Database, filter},
};

/// Dead letters that one statement reads. Their bodies are read one at a time.
const PAGE_LETTERS: u64 = 500;

/// What is done with dead letters.
pub(super) enum Action {
    Redrive(Box<Consumers>),
    Discard,
}

/// The projections of both consumers, as the services run them.
pub(super) struct Consumers {
    orders: Orders,
    invoices: InvoiceQueue,
    topics: Topics,
    force: bool,
}

/// The result for one dead letter.
enum LetterResult {
    /// It was redriven or discarded, with this outcome.
    Done(String),
    /// It failed again.
    StillDead(String),
    /// Nothing was done.
    Skipped(SkipReason),
}

impl Action {
    pub(super) fn redrive(config: &Config, force: bool) -> Result<Self, ConfigError> {
        consumers::check(config)?;
        Ok(Self::Redrive(Box::new(Consumers {
            orders: consumers::orders(config),
            invoices: consumers::invoices(config),
            topics: config.kafka.topics(),
            force,
        })))
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Redrive(_) => "redriven",
            Self::Discard => "discarded",
        }
    }

    async fn act(
        &self,
        connection: &mut PgConnection,
        place: &LetterPosition,
        request: &Request,
    ) -> anyhow::Result<LetterResult> {
        let Self::Redrive(consumers) = self else {
            return Ok(match dead_letters::discard(connection, place, request).await? {
                Ok(()) => LetterResult::Done("discarded".to_owned()),
                Err(skip) => LetterResult::Skipped(skip),
            });
        };
        Ok(match consumers.redrive(connection, place, request).await? {
            RedriveResult::Settled { outcome, reason } => {
                let reason = reason.map(|reason| format!("({reason})")).unwrap_or_default();
                LetterResult::Done(format!("{}{reason}", outcome.as_str()))
            }
            RedriveResult::Dead { reason, detail, attempts } => LetterResult::StillDead(format!(
                "dead({reason}) after {}: {}",
                count(attempts, "attempt"),
                printable(&detail)
            )),
            RedriveResult::Skipped(skip) => LetterResult::Skipped(skip),
        })
    }
}

impl Consumers {
    /// Redrives a dead letter with the consumer of its topic.
    async fn redrive(
        &self,
        connection: &mut PgConnection,
        place: &LetterPosition,
        request: &Request,
    ) -> anyhow::Result<RedriveResult> {
        let (topic, now) = (without_cluster(&place.position.topic).to_owned(), SystemClock.now());
        Ok(match self.topics.consumer_of(&topic) {
            Some(RawConsumer::InvoiceFetcher) => {
                dead_letters::redrive(connection, &self.invoices, place, request, now).await?
            }
            Some(RawConsumer::Processor) => {
                dead_letters::redrive(connection, &self.orders, place, request, now).await?
            }
            None => RedriveResult::Skipped(SkipReason::NoConsumer),
        })
    }
}

/// The source of the dead letters.
enum Letters {
    Named(std::vec::IntoIter<LetterPosition>),
    Walk { cursor: Cursor, filter: Filter, page: std::vec::IntoIter<LetterPosition> },
}

impl Letters {
    async fn next(&mut self, database: &mut Database<'_>, most: u64) -> Result<Option<LetterPosition>, Error> {
        match self {
            Self::Named(places) => Ok(places.next()),
            Self::Walk { cursor, filter, page } => {
                if let Some(place) = page.next() {
                    return Ok(Some(place));
                }
                let limit = i64::try_from(most.min(PAGE_LETTERS)).unwrap_or(i64::MAX);
                let found = dead_letters::next_page(database.connection, cursor, filter, limit);
                *page = bounded(database.limit, found).await?.into_iter();
                Ok(page.next())
            }
        }
    }
}

/// The named dead letters, and whether one of the names does not exist.
async fn named(database: &mut Database<'_>, names: &[LetterSelector]) -> anyhow::Result<(Vec<LetterPosition>, bool)> {
    let (mut places, mut missing) = (Vec::new(), false);
    for name in names {
        let found = database.find(name).await?;
        if found.is_empty() {
            out::note(&format!("{name}: no such dead letter"));
            missing = true;
        }
        for (place, _) in found {
            if !places.contains(&place) {
                places.push(place);
            }
        }
    }
    Ok((places, missing))
}

/// Redrives or discards every selected dead letter. The exit code is 1 if one of them stays dead, or a named one is skipped.
pub(super) async fn run(
    mut database: Database<'_>,
    action: Action,
    options: ActionOptions,
) -> anyhow::Result<ExitCode> {
    let output = options.output;
    let run = if options.apply { Run::Apply } else { Run::Dry };
    let why = options.reason.of_run(options.apply)?;
    let is_named = !options.letters.is_empty();
    let request = Request {
        by: options.operator.name()?,
        why,
        run,
        include_discarded: is_named,
        include_looping: matches!(&action, Action::Redrive(consumers) if consumers.force),
    };
    let (mut letters, total, mut failed) = if is_named {
        let (places, missing) = named(&mut database, &options.letters).await?;
        let total = places.len() as u64;
        (Letters::Named(places.into_iter()), total, missing)
    } else {
        let filter = filter(options.filter);
        let cursor = bounded(database.limit, dead_letters::started(database.connection)).await?;
        let total = bounded(database.limit, dead_letters::count(database.connection, &filter)).await?;
        (Letters::Walk { cursor, filter, page: Vec::new().into_iter() }, total, false)
    };

    let bar = progress::counting("dead letters")?;
    bar.set_length(total.min(options.limit));
    let mut pace = interval(Duration::from_secs(1) / options.rate);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut counts = Counts::default();
    while counts.all() < options.limit
        && let Some(place) = letters.next(&mut database, options.limit - counts.all()).await?
    {
        pace.tick().await;
        let result = action.act(database.connection, &place, &request).await?;
        bar.suspend(|| print(&place, &result, run, output))?;
        counts.add(result);
        bar.inc(1);
    }
    bar.finish_and_clear();
    failed |= counts.still_dead > 0 || (is_named && !counts.skipped.is_empty());
    let summary = RunSummary { applied: options.apply, rest: total.saturating_sub(counts.all()), counts: &counts };
    output.each(&serde_json::json!({ "summary": summary }), || counts.summary(action.name(), run, total))?;
    Ok(exit::success_if(!failed))
}

/// Prints the result for one dead letter.
fn print(place: &LetterPosition, result: &LetterResult, run: Run, output: Output) -> anyhow::Result<()> {
    let position = &place.position;
    let (name, detail) = match result {
        LetterResult::Done(what) => ("done", what.clone()),
        LetterResult::StillDead(why) => ("stays", why.clone()),
        LetterResult::Skipped(skip) => ("skipped", skip.to_string()),
    };
    let letter = serde_json::json!({ "letter": {
        "topic": position.topic, "partition": position.partition, "offset": position.offset,
        "result": name, "detail": detail, "applied": run == Run::Apply,
    }});
    output.each(&letter, || {
        let would = match run {
            Run::Apply => "",
            Run::Dry => "would be ",
        };
        match result {
            LetterResult::Done(what) => format!("{position}  {would}{what}"),
            LetterResult::StillDead(why) => format!("{position}  {would}still {why}"),
            LetterResult::Skipped(skip) => format!("{position}  skipped: {skip}"),
        }
    })
}

/// The totals of a run.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RunSummary<'a> {
    applied: bool,
    #[serde(flatten)]
    counts: &'a Counts,
    /// Selected dead letters beyond `--limit`.
    rest: u64,
}

/// Dead letters by result.
#[derive(Default, Serialize)]
struct Counts {
    /// By the new outcome of their records.
    done: BTreeMap<String, u64>,
    /// Failed again.
    #[serde(rename = "stays")]
    still_dead: u64,
    /// By the reason.
    skipped: BTreeMap<String, u64>,
}

impl Counts {
    fn all(&self) -> u64 {
        self.done.values().sum::<u64>() + self.still_dead + self.skipped.values().sum::<u64>()
    }

    fn add(&mut self, result: LetterResult) {
        match result {
            LetterResult::Done(what) => *self.done.entry(what).or_default() += 1,
            LetterResult::StillDead(_) => self.still_dead += 1,
            LetterResult::Skipped(skip) => *self.skipped.entry(skip.to_string()).or_default() += 1,
        }
    }

    fn summary(&self, what: &str, run: Run, total: u64) -> String {
        let done: u64 = self.done.values().sum();
        let parts: Vec<String> = self.done.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
        let (letters, still_dead, skipped) =
            (count(done, "dead letter"), self.still_dead, self.skipped.values().sum::<u64>());
        let rest = total.saturating_sub(self.all());
        let rest = if rest > 0 { format!("; {rest} more match; raise --limit to include them") } else { String::new() };
        match run {
            Run::Apply => {
                format!("{letters} {what}{parts}, {still_dead} still dead, {skipped} skipped{rest}")
            }
            Run::Dry => format!(
                "{letters} would be {what}{parts}, {still_dead} would stay dead, {skipped} skipped{rest}; apply with --apply --reason TEXT"
            ),
        }
    }
}
