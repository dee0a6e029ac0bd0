//! The sent events for the Events API: the latest ones, in bounded memory.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::data::life::PlannedEvent;

/// Most events that are stored; the oldest are dropped first.
pub const EVENTS_KEPT_MAX: usize = 10_000;

/// Most events on one page. Source: Digital River, Events API: `limit` is 1 to 100.
pub const PAGE_MAX: usize = 100;

/// Order of events: by creation time, then by id.
type Position = (DateTime<Utc>, String);

/// Sent events, ordered by creation. Shared between the player and the API.
#[derive(Debug, Default)]
pub struct EventStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    events: BTreeMap<Position, (Cow<'static, str>, Bytes)>,
    positions: HashMap<String, DateTime<Utc>>,
}

/// The conditions of a list request; all must hold.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Created at or after this, or strictly after.
    pub from: Option<Bound<DateTime<Utc>>>,
    /// Created at or before this, or strictly before.
    pub to: Option<Bound<DateTime<Utc>>>,
    /// Types, each possibly with `*`; none means all.
    pub types: Vec<String>,
    /// Most events on the page, at most [`PAGE_MAX`].
    pub limit: usize,
    /// Where the page begins.
    pub cursor: Cursor,
}

/// Where a page begins. Pages go from the newest event to the oldest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Cursor {
    /// At the newest event.
    #[default]
    Start,
    /// Just after (older than) the event with this id.
    After(String),
    /// It ends just before (newer than) the event with this id.
    Before(String),
}

/// A part of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The events' bodies, the newest first.
    pub data: Vec<Bytes>,
    /// Whether there are more in the direction of the cursor.
    pub has_more: bool,
}

/// The cursor names an event that is not, or no longer, kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownCursor;

impl EventStore {
    /// Nothing sent yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps an event; keeping it twice changes nothing.
    pub fn record(&self, event: &PlannedEvent) {
        self.keep(&event.id, event.event_type.into(), event.created_time, event.body.clone());
    }

    /// Keeps an event of any type; keeping it twice changes nothing.
    pub fn record_body(&self, id: &str, event_type: &str, created_time: DateTime<Utc>, body: Bytes) {
        self.keep(id, event_type.to_owned().into(), created_time, body);
    }

    fn keep(&self, id: &str, event_type: Cow<'static, str>, created_time: DateTime<Utc>, body: Bytes) {
        let mut inner = self.lock();
        inner.positions.insert(id.to_owned(), created_time);
        inner.events.insert((created_time, id.to_owned()), (event_type, body));
        if inner.events.len() > EVENTS_KEPT_MAX {
            let oldest = inner.events.pop_first();
            let ((_, id), _) = oldest.expect("more events are kept than the limit, which is not 0");
            inner.positions.remove(&id);
        }
    }

    /// The body of one event.
    pub fn get(&self, id: &str) -> Option<Bytes> {
        let inner = self.lock();
        let position = (*inner.positions.get(id)?, id.to_owned());
        inner.events.get(&position).map(|(_, body)| body.clone())
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.lock().events.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One page of the matching events.
    ///
    /// # Errors
    /// When the cursor names an event that is not kept.
    pub fn page(&self, query: &EventQuery) -> Result<Page, UnknownCursor> {
        let inner = self.lock();
        let fits = |(position, (event_type, body)): (&Position, &(Cow<'static, str>, Bytes))| {
            let is_of_type = query.types.is_empty() || query.types.iter().any(|pattern| matches(pattern, event_type));
            (is_of_type && query.spans(position.0)).then(|| body.clone())
        };
        let find = |id: &String| inner.positions.get(id).map(|at| (*at, id.clone())).ok_or(UnknownCursor);
        let wanted = query.limit.clamp(1, PAGE_MAX);
        // One more than requested, to know whether there are more.
        let mut data: Vec<Bytes> = match &query.cursor {
            Cursor::Start => inner.events.iter().rev().filter_map(fits).take(wanted + 1).collect(),
            Cursor::After(id) => inner.events.range(..find(id)?).rev().filter_map(fits).take(wanted + 1).collect(),
            Cursor::Before(id) => {
                let newer = (Bound::Excluded(find(id)?), Bound::Unbounded);
                inner.events.range(newer).filter_map(fits).take(wanted + 1).collect()
            }
        };
        let has_more = data.len() > wanted;
        data.truncate(wanted);
        if matches!(query.cursor, Cursor::Before(_)) {
            data.reverse();
        }
        Ok(Page { data, has_more })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventQuery {
    fn spans(&self, at: DateTime<Utc>) -> bool {
        let after = match self.from {
            Some(Bound::Included(from)) => at >= from,
            Some(Bound::Excluded(from)) => at > from,
            Some(Bound::Unbounded) | None => true,
        };
        let before = match self.to {
            Some(Bound::Included(to)) => at <= to,
            Some(Bound::Excluded(to)) => at < to,
            Some(Bound::Unbounded) | None => true,
        };
        after && before
    }
}

/// Whether a type matches a pattern in which every `*` matches any text.
pub(crate) fn matches(pattern: &str, event_type: &str) -> bool {
    let Some((prefix, rest)) = pattern.split_once('*') else {
        return pattern == event_type;
    };
    let Some(mut left) = event_type.strip_prefix(prefix) else {
        return false;
    };
    let (middle, suffix) = rest.rsplit_once('*').map_or(("", rest), |(middle, suffix)| (middle, suffix));
    for part in middle.split('*') {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: i64) -> PlannedEvent {
        PlannedEvent {
            id: format!("event-{number:06}"),
            event_type: if number % 2 == 0 { "order.accepted" } else { "order.invoice.created" },
            order_id: None,
            created_time: DateTime::from_timestamp(number, 0).unwrap(),
            body: number.to_string().into(),
        }
    }

    fn store(count: i64) -> EventStore {
        let store = EventStore::new();
        (0..count).for_each(|number| store.record(&event(number)));
        store
    }

    fn texts(page: &Page) -> Vec<&str> {
        page.data.iter().map(|body| std::str::from_utf8(body).unwrap()).collect()
    }

    #[test]
    fn pages_go_from_the_newest_to_the_oldest_and_back() {
        let store = store(5);
        let ask = |cursor| store.page(&EventQuery { limit: 2, cursor, ..EventQuery::default() }).unwrap();
        let first = ask(Cursor::Start);
        assert_eq!((texts(&first), first.has_more), (vec!["4", "3"], true));
        let second = ask(Cursor::After("event-000003".into()));
        assert_eq!((texts(&second), second.has_more), (vec!["2", "1"], true));
        let last = ask(Cursor::After("event-000001".into()));
        assert_eq!((texts(&last), last.has_more), (vec!["0"], false));
        let back = ask(Cursor::Before("event-000000".into()));
        assert_eq!((texts(&back), back.has_more), (vec!["2", "1"], true));
        let unknown = EventQuery { cursor: Cursor::After("x".into()), limit: 1, ..EventQuery::default() };
        assert_eq!(store.page(&unknown), Err(UnknownCursor));
    }

    #[test]
    fn events_are_filtered_by_time_and_type() {
        let store = store(10);
        let query = EventQuery {
            from: Some(Bound::Excluded(DateTime::from_timestamp(2, 0).unwrap())),
            to: Some(Bound::Included(DateTime::from_timestamp(6, 0).unwrap())),
            types: vec!["order.acc*".into()],
            limit: 10,
            cursor: Cursor::Start,
        };
        assert_eq!(texts(&store.page(&query).unwrap()), ["6", "4"]);
    }

    #[test]
    fn only_the_latest_events_are_kept() {
        let kept = i64::try_from(EVENTS_KEPT_MAX).unwrap();
        let store = store(kept + 10);
        store.record(&event(0));
        assert_eq!(store.len(), EVENTS_KEPT_MAX);
        assert_eq!(store.get("event-000009"), None);
        assert_eq!(store.get("event-000010").as_deref(), Some(b"10".as_slice()));
        assert_eq!(store.lock().positions.len(), EVENTS_KEPT_MAX);
    }

    #[test]
    fn a_star_matches_any_text() {
        for (pattern, fits) in [
            ("*", true),
            ("order.*", true),
            ("order.invoice.created", true),
            ("order.*.created", true),
            ("*.created", true),
            ("o*i*c*d", true),
            ("order", false),
            ("fulfillment.*", false),
            ("order.*.refunded", false),
            ("order.invoice.created*created", false),
        ] {
            assert_eq!(matches(pattern, "order.invoice.created"), fits, "{pattern}");
        }
    }
}
