//! Redrives or discards letters, one after the other, not faster than was asked for.

use std::{collections::BTreeMap, io::IsTerminal as _, process::ExitCode, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use riverlock_invoice_fetcher::InvoiceQueue;
use riverlock_ledger::{Error, postgres::bounded};
use riverlock_processor::Orders;
use riverlock_recovery::dead_letters::{self, Cursor, Filter, LetterPosition, RedriveResult, Request, Run, SkipReason};
use riverlock_runtime::{Clock as _, ConfigError, SystemClock};
use riverlock_schemas::topics::{Topics, without_cluster};
use serde::Serialize;
use sqlx::PgConnection;
use tokio::time::{MissedTickBehavior, interval};

use super::{Desk, filter, shown};
use crate::{
    args::dead_letters::{ActOptions, Named},
    config::Config,
    consumers, exit,
    out::{self, Output},
};

/// Letters that are looked up with one statement. Their bodies are read one at a time.
const PAGE_LETTERS: u64 = 500;

/// What is done with letters.
pub(super) enum Action {
    Redrive(Box<Consumers>),
    Discard,
}

/// The two consumers' projections, as the services would run them.
pub(super) struct Consumers {
    orders: Orders,
    invoices: InvoiceQueue,
    topics: Topics,
    force: bool,
}

/// What came of one letter.
enum Came {
    /// It is done.
    Done(String),
    /// It is what it was.
    Stays(String),
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
    ) -> anyhow::Result<Came> {
        let Self::Redrive(consumers) = self else {
            return Ok(match dead_letters::discard(connection, place, request).await? {
                Ok(()) => Came::Done("discarded".to_owned()),
                Err(skip) => Came::Skipped(skip),
            });
        };
        Ok(match consumers.redrive(connection, place, request).await? {
            RedriveResult::Settled { outcome, reason } => {
                let reason = reason.map(|reason| format!("({reason})")).unwrap_or_default();
                Came::Done(format!("{}{reason}", outcome.as_str()))
            }
            RedriveResult::Dead { reason, detail, attempts } => {
                Came::Stays(format!("dead({reason}) after {attempts} tries: {}", shown(&detail)))
            }
            RedriveResult::Skipped(skip) => Came::Skipped(skip),
        })
    }
}

impl Consumers {
    /// Gives a letter to the consumer that reads its topic.
    async fn redrive(
        &self,
        connection: &mut PgConnection,
        place: &LetterPosition,
        request: &Request,
    ) -> anyhow::Result<RedriveResult> {
        let (topic, now) = (without_cluster(&place.position.topic).to_owned(), SystemClock.now());
        if self.topics.files().contains(&topic) {
            return Ok(dead_letters::redrive(connection, &self.invoices, place, request, now).await?);
        }
        if !self.topics.orders().contains(&topic) {
            return Ok(RedriveResult::Skipped(SkipReason::NoConsumer));
        }
        Ok(dead_letters::redrive(connection, &self.orders, place, request, now).await?)
    }
}

/// Where the letters come from.
enum Letters {
    Named(std::vec::IntoIter<LetterPosition>),
    Walk { cursor: Cursor, filter: Filter, page: std::vec::IntoIter<LetterPosition> },
}

impl Letters {
    async fn next(&mut self, desk: &mut Desk<'_>, most: u64) -> Result<Option<LetterPosition>, Error> {
        match self {
            Self::Named(places) => Ok(places.next()),
            Self::Walk { cursor, filter, page } => {
                if let Some(place) = page.next() {
                    return Ok(Some(place));
                }
                let limit = i64::try_from(most.min(PAGE_LETTERS)).unwrap_or(i64::MAX);
                let found = dead_letters::next_page(desk.connection, cursor, filter, limit);
                *page = bounded(desk.limit, found).await?.into_iter();
                Ok(page.next())
            }
        }
    }
}

/// The letters that are named, and whether one of the names means none.
async fn named(desk: &mut Desk<'_>, names: &[Named]) -> anyhow::Result<(Vec<LetterPosition>, bool)> {
    let (mut places, mut missing) = (Vec::new(), false);
    for named in names {
        let found = desk.find(named).await?;
        if found.is_empty() {
            out::note(&format!("{named}: there is no such letter"));
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

/// Does what was asked with every letter that is meant. Something is wrong if one of them stays as it was.
pub(super) async fn run(mut desk: Desk<'_>, action: Action, options: ActOptions) -> anyhow::Result<ExitCode> {
    let output = options.output;
    let (run, why) = match options.apply {
        true => (Run::Apply, options.reason.needed()?),
        false => (Run::Dry, options.reason.of_dry_run()),
    };
    let is_named = !options.letters.is_empty();
    let request = Request {
        by: options.by.name()?,
        why,
        run,
        include_discarded: is_named,
        include_looping: matches!(&action, Action::Redrive(consumers) if consumers.force),
    };
    let (mut letters, total, mut failed) = if is_named {
        let (places, missing) = named(&mut desk, &options.letters).await?;
        let total = places.len() as u64;
        (Letters::Named(places.into_iter()), total, missing)
    } else {
        let filter = filter(options.filter);
        let cursor = bounded(desk.limit, dead_letters::started(desk.connection)).await?;
        let total = bounded(desk.limit, dead_letters::count(desk.connection, &filter)).await?;
        (Letters::Walk { cursor, filter, page: Vec::new().into_iter() }, total, false)
    };

    let bar = bar(total.min(options.limit))?;
    let mut pace = interval(Duration::from_secs(1) / options.rate);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut counts = Counts::default();
    while counts.all() < options.limit
        && let Some(place) = letters.next(&mut desk, options.limit - counts.all()).await?
    {
        pace.tick().await;
        let came = action.act(desk.connection, &place, &request).await?;
        bar.suspend(|| tell(&place, &came, run, output))?;
        counts.count(came);
        bar.inc(1);
    }
    bar.finish_and_clear();
    failed |= counts.stays > 0 || (is_named && !counts.skipped.is_empty());
    let summary = Summary { applied: options.apply, rest: total.saturating_sub(counts.all()), counts: &counts };
    output.each(&serde_json::json!({ "summary": summary }), || counts.summary(action.name(), run, total))?;
    Ok(exit::well_if(!failed))
}

/// Says in a line what came of a letter, or would.
fn tell(place: &LetterPosition, came: &Came, run: Run, output: Output) -> anyhow::Result<()> {
    let position = &place.position;
    let (result, detail) = match came {
        Came::Done(what) => ("done", what.clone()),
        Came::Stays(why) => ("stays", why.clone()),
        Came::Skipped(skip) => ("skipped", skip.to_string()),
    };
    let letter = serde_json::json!({ "letter": {
        "topic": position.topic, "partition": position.partition, "offset": position.offset,
        "result": result, "detail": detail, "applied": run == Run::Apply,
    }});
    output.each(&letter, || {
        let would = match run {
            Run::Apply => "",
            Run::Dry => "would be ",
        };
        match came {
            Came::Done(what) => format!("{position}  {would}{what}"),
            Came::Stays(why) => format!("{position}  {would}still {why}"),
            Came::Skipped(skip) => format!("{position}  passed over: {skip}"),
        }
    })
}

/// Progress, for who sits before it.
fn bar(total: u64) -> anyhow::Result<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} letters {per_sec} {elapsed} (left: {eta})")?;
    Ok(ProgressBar::new(total).with_style(style))
}

/// What a whole run came to.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    applied: bool,
    #[serde(flatten)]
    counts: &'a Counts,
    /// Letters that are meant and were not reached, because of `--limit`.
    rest: u64,
}

/// How many letters came to what.
#[derive(Default, Serialize)]
struct Counts {
    /// By the outcome that their records have now.
    done: BTreeMap<String, u64>,
    /// Stay dead.
    stays: u64,
    /// By the reason.
    skipped: BTreeMap<String, u64>,
}

impl Counts {
    fn all(&self) -> u64 {
        self.done.values().sum::<u64>() + self.stays + self.skipped.values().sum::<u64>()
    }

    fn count(&mut self, came: Came) {
        match came {
            Came::Done(what) => *self.done.entry(what).or_default() += 1,
            Came::Stays(_) => self.stays += 1,
            Came::Skipped(skip) => *self.skipped.entry(skip.to_string()).or_default() += 1,
        }
    }

    fn summary(&self, what: &str, run: Run, total: u64) -> String {
        let done: u64 = self.done.values().sum();
        let parts: Vec<String> = self.done.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
        let (stays, skipped) = (self.stays, self.skipped.values().sum::<u64>());
        let rest = total.saturating_sub(self.all());
        let rest = if rest > 0 { format!("; {rest} more are meant: --limit does more") } else { String::new() };
        match run {
            Run::Apply => {
                format!("{done} letters {what}{parts}, {stays} stay dead, {skipped} passed over{rest}")
            }
            Run::Dry => format!(
                "{done} letters would be {what}{parts}, {stays} would stay dead, {skipped} passed over{rest}; --apply --reason <why> does it"
            ),
        }
    }
}
