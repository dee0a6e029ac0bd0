//! Compares Digital River's events with the ledger.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use rdkafka::producer::FutureProducer;
use riverlock_digital_river::{
    Priority,
    events::{ListedEvent, Query, TYPES_MAX},
};
use riverlock_ledger::{
    postgres::{self, Lock, cluster},
    view,
};
use riverlock_schemas::{Envelope, EventId, Mode, kafka::record};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    error::ReconcileError,
    listing::{
        walk::Walk,
        windows::{Range, Window, remaining, windows},
    },
    reconciler::Reconciler,
    report::{MissingEvent, Report},
    store::{self, RunProgress},
    topics,
};

/// How long an interrupted run can be resumed.
const RESUME_WITHIN: TimeDelta = TimeDelta::hours(24);

/// How long written events are remembered: longer than Digital River lists them.
const REMEMBER_FOR: TimeDelta = TimeDelta::days(40);

/// What to compare, and what to do with missing events.
#[derive(Clone, Debug)]
pub struct Options {
    /// Mode of the compared data.
    pub mode: Mode,
    /// Event types; `order.*` stands for a group.
    pub types: Vec<String>,
    /// The time range.
    pub range: Range,
    /// Length of a window.
    pub window: TimeDelta,
    /// Overlap of two windows.
    pub overlap: TimeDelta,
    /// How long to wait for the consumers to catch up.
    pub catch_up: Duration,
    /// Whether missing events are written.
    pub apply: bool,
    /// Whether an interrupted run is resumed.
    pub resume: bool,
    /// Priority of the requests to Digital River.
    pub priority: Priority,
}

/// Progress of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Time compared so far.
    pub covered: TimeDelta,
    /// Time to compare in total.
    pub total: TimeDelta,
    /// Events listed so far.
    pub listed: u64,
    /// Events found missing so far.
    pub missing: u64,
}

/// State of a run.
struct Run<'a> {
    options: &'a Options,
    filters: Vec<Vec<String>>,
    report: Report,
    /// With `apply`: the run's id, and the producer for missing events.
    writer: Option<(Uuid, FutureProducer)>,
    /// Without `apply`: missing events of the last overlap, which the next window lists again.
    overlapped: HashSet<String>,
}

impl Reconciler<'_> {
    /// Compares the events, and with `apply` writes the missing ones.
    ///
    /// # Errors
    /// When the comparison is not completed. What was written stays; another run resumes.
    pub async fn run(
        &self,
        connection: &mut PgConnection,
        options: &Options,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Report, ReconcileError> {
        if options.types.is_empty() {
            return Err(ReconcileError::NoTypes);
        }
        if !options.apply {
            return self.compare(connection, options, progress).await;
        }
        let lock = Lock::Reconcile(options.mode.as_str());
        if !self.bounded(postgres::try_lock(connection, lock)).await? {
            return Err(ReconcileError::Running(options.mode));
        }
        let result = self.compare(connection, options, progress).await;
        // Closing the connection would release the lock as well.
        let released = self.bounded(postgres::unlock(connection, lock)).await;
        let report = result?;
        released?;
        Ok(report)
    }

    async fn compare(
        &self,
        connection: &mut PgConnection,
        options: &Options,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Report, ReconcileError> {
        let Options { mode, types, range, .. } = options;
        cluster::ensure_current(self.kafka, connection).await?;
        let now = self.clock.now();
        let mut report = Report::new(*mode, types.clone(), range.from, range.to, options.apply);
        let (mut ranges, mut runs, mut writer) = (vec![*range], Vec::new(), None);
        if options.apply {
            let unfinished = store::unfinished(connection, *mode, types, now - RESUME_WITHIN);
            if let Some(earlier) = self.bounded(unfinished).await?
                && options.resume
            {
                ranges = remaining(*range, earlier.done, options.overlap);
                report.resumed = Some(earlier.run_id);
                runs.push(earlier.run_id);
            }
            let run_id = Uuid::now_v7();
            self.bounded(store::forget(connection, now - REMEMBER_FOR)).await?;
            self.bounded(store::begin(connection, run_id, *mode, types, *range, now)).await?;
            runs.push(run_id);
            writer = Some((run_id, self.kafka.producer().create()?));
        }
        topics::caught_up(self, connection, options.catch_up).await?;
        let total = ranges.iter().fold(TimeDelta::zero(), |sum, range| sum + (range.to - range.from));
        let (filters, overlapped) = (filters(types), HashSet::new());
        let mut run = Run { options, filters, report, writer, overlapped };
        let mut covered = TimeDelta::zero();
        let contiguous = ranges.len() == 1 && ranges[0].to == range.to;
        for range in ranges {
            for window in windows(range, options.window, options.overlap) {
                let mut page =
                    |run: &Report| progress(Progress { covered, total, listed: run.listed, missing: run.missing });
                self.window(connection, &mut run, window, &mut page).await?;
                covered += window.listed.to - window.done_from;
                // A run is resumed from its stored position, so that is stored only if there is no gap.
                if contiguous {
                    self.store_progress(connection, &run, window.done_from).await?;
                }
                let Report { listed, missing, .. } = run.report;
                progress(Progress { covered, total, listed, missing });
            }
        }
        self.bounded(store::finish(connection, &runs, self.clock.now())).await?;
        Ok(run.report)
    }

    /// Compares one window, and reports progress after every page.
    async fn window(
        &self,
        connection: &mut PgConnection,
        run: &mut Run<'_>,
        window: Window,
        page_done: &mut (dyn FnMut(&Report) + Send),
    ) -> Result<(), ReconcileError> {
        let mut overlapped = HashSet::new();
        for types in run.filters.clone() {
            let query = Query { from: window.listed.from, to: window.listed.to, types, starting_after: None };
            let mut pages = Walk::new(self.client, run.options.mode, query, run.options.priority);
            loop {
                if self.stop.is_cancelled() {
                    return Err(ReconcileError::Stopped);
                }
                let Some(page) = pages.next().await? else { break };
                run.report.listed += page.data.len() as u64;
                run.report.unusable += page.unreadable as u64;
                let missing = self.missing(connection, run, page.data).await?;
                for (key, event) in &missing {
                    if event.created_time.is_some_and(|time| time < window.done_from) {
                        overlapped.insert(key.clone());
                    }
                }
                self.write(connection, run, missing).await?;
                page_done(&run.report);
            }
        }
        run.overlapped = overlapped;
        Ok(())
    }

    /// Returns the events of a page that have no outcome and were not written, without duplicates.
    async fn missing(
        &self,
        connection: &mut PgConnection,
        run: &mut Run<'_>,
        events: Vec<ListedEvent>,
    ) -> Result<Vec<(String, ListedEvent)>, ReconcileError> {
        let mut seen = HashSet::new();
        let mut keyed = Vec::with_capacity(events.len());
        for event in events {
            if event.mode.is_some_and(|mode| mode != run.options.mode) {
                run.report.unusable += 1;
                continue;
            }
            let key = match EventId::check(&event.id) {
                Ok(()) => event.id.clone(),
                Err(_) => record::hashed(&event.id),
            };
            if seen.insert(key.clone()) {
                keyed.push((key, event));
            }
        }
        let keys: Vec<String> = keyed.iter().map(|(key, _)| key.clone()).collect();
        let mut known = self.bounded(view::known_events(connection, &keys)).await?;
        known.extend(self.bounded(store::written(connection, &keys)).await?);
        keyed.retain(|(key, _)| !known.contains(key) && !run.overlapped.contains(key));
        Ok(keyed)
    }

    /// Counts missing events, and with `apply` writes them.
    async fn write(
        &self,
        connection: &mut PgConnection,
        run: &mut Run<'_>,
        missing: Vec<(String, ListedEvent)>,
    ) -> Result<(), ReconcileError> {
        if missing.is_empty() {
            return Ok(());
        }
        if let Some((run_id, producer)) = &run.writer {
            let bodies: Vec<&[u8]> = missing.iter().map(|(_, event)| event.body.as_ref()).collect();
            let positions = topics::write(producer, &self.kafka.topics(), &bodies, self.clock.now()).await?;
            let written: Vec<_> = missing.iter().map(|(key, _)| key.clone()).zip(positions).collect();
            self.bounded(store::remember(connection, *run_id, &written)).await?;
            run.report.written += written.len() as u64;
        }
        for (_, event) in missing {
            let order_id = Envelope::parse(&event.body).ok().and_then(|envelope| envelope.order_id.map(Into::into));
            let ListedEvent { id, event_type, created_time, .. } = event;
            run.report.add(MissingEvent { id, event_type, created_time, order_id });
        }
        Ok(())
    }

    /// Stores the progress of the run.
    async fn store_progress(
        &self,
        connection: &mut PgConnection,
        run: &Run<'_>,
        done_from: DateTime<Utc>,
    ) -> Result<(), ReconcileError> {
        let Some((run_id, _)) = &run.writer else { return Ok(()) };
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let Report { listed, missing, written, .. } = run.report;
        let reached =
            RunProgress { done_from, listed: number(listed), missing: number(missing), written: number(written) };
        Ok(self.bounded(store::reached(connection, *run_id, &reached)).await?)
    }
}

/// Splits the types into filters that a request accepts: a group with `*` alone, names in lists of [`TYPES_MAX`].
fn filters(types: &[String]) -> Vec<Vec<String>> {
    let (groups, names): (Vec<String>, Vec<String>) = types.iter().cloned().partition(|name| name.contains('*'));
    let lists = names.chunks(TYPES_MAX).map(<[String]>::to_vec);
    groups.into_iter().map(|group| vec![group]).chain(lists).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_request_has_more_types_than_digital_river_accepts() {
        let mut types: Vec<String> = (0..45).map(|number| format!("a.{number}")).collect();
        types.insert(3, "order.*".to_owned());
        let found = filters(&types);
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [1, 19, 19, 7]);
        assert_eq!(found[0], ["order.*"]);
    }
}
