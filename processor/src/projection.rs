//! The processor's projection: reads events about orders and applies them.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use riverlock_ledger::{DeadReason, Decision, Error, NewEvent, ParsedRecord, Projection, outbox};
use riverlock_schemas::{
    Envelope, EnvelopeError, Mode,
    events::{content::Content, event_type, order_event::OrderEvent, order_object::OrderObject, payload::PayloadError},
};
use sqlx::PgConnection;

use crate::{
    domain::{Facts, OrderKey, effects},
    store,
};

/// The processor's consumer name. Its offsets are stored under this name, so it must never change.
pub const CONSUMER: &str = "processor";

/// Applies events about orders, their charges and their fulfillments to orders.
#[derive(Clone, Debug)]
pub struct Orders {
    modes: Vec<Mode>,
    cache: Arc<store::OrderCache>,
}

impl Orders {
    /// Events of modes that are not in `modes` are ignored.
    #[must_use]
    pub fn new(modes: Vec<Mode>) -> Self {
        Self::with_cache(modes, 0)
    }

    /// Like [`Self::new`], for the only database that it is used with: at most `orders_max` orders that were written last
    /// are not read again.
    #[must_use]
    pub fn with_cache(modes: Vec<Mode>, orders_max: usize) -> Self {
        Self { modes, cache: Arc::new(store::OrderCache::new(orders_max)) }
    }

    /// Decides what happens to an event. `parse` reads its payload and is called only if the event is not ignored.
    fn classify(
        &self,
        envelope: &Envelope<'_>,
        parse: impl FnOnce() -> Result<OrderEvent, PayloadError>,
    ) -> Decision<OrderEvent> {
        if event_type::subject(&envelope.event_type).is_none() {
            return Decision::Ignore("unhandled_type");
        }
        if envelope.mode.is_some_and(|mode| !self.modes.contains(&mode)) {
            return Decision::Ignore("mode");
        }
        match parse() {
            Ok(event) => Decision::Apply(event),
            Err(error) => Decision::Dead(DeadReason { reason: error.code(), detail: error.to_string() }),
        }
    }
}

/// The orders that events of a batch were applied to.
#[derive(Debug)]
pub struct AppliedOrders(Vec<(OrderKey, store::StoredOrder)>);

impl Projection for Orders {
    type Event = OrderEvent;
    type Applied = AppliedOrders;

    fn name(&self) -> &'static str {
        CONSUMER
    }

    fn decide(&self, envelope: &Envelope<'_>, body: &[u8]) -> Decision<OrderEvent> {
        self.classify(envelope, || OrderEvent::parse(envelope, body, None))
    }

    fn read<'a>(
        &self,
        body: &'a [u8],
        received_at: Option<DateTime<Utc>>,
    ) -> Result<ParsedRecord<'a, OrderEvent>, EnvelopeError> {
        let (envelope, object) = OrderObject::read(body)?;
        let mut oddities = object.oddities();
        let decision = self.classify(&envelope, || object.into_event(&envelope, received_at));
        if let Decision::Apply(event) = &decision {
            oddities = event.oddities;
        }
        Ok(ParsedRecord { envelope, decision, oddities })
    }

    fn describe(&self, event: &OrderEvent, content: &mut Content) {
        content.add_order_event(event);
    }

    async fn apply(
        &self,
        connection: &mut PgConnection,
        fresh: Vec<NewEvent<OrderEvent>>,
        now: DateTime<Utc>,
    ) -> Result<Self::Applied, Error> {
        // The batch's facts are joined per order first, so each order's row is written once per batch.
        let mut news: BTreeMap<OrderKey, Box<Facts>> = BTreeMap::new();
        for NewEvent { event, conflict } in fresh {
            news.entry(OrderKey::of(&event)).or_default().add(event, conflict);
        }
        let mut cached = self.cache.take(news.keys());
        let keys: Vec<OrderKey> = news.keys().filter(|key| !cached.contains_key(key)).cloned().collect();
        let mut stored = store::read(connection, &keys).await?;

        let (mut changed, mut messages) = (Vec::with_capacity(news.len()), Vec::new());
        let (mut unchanged, mut versions) = (Vec::new(), Vec::new());
        for (key, news) in news {
            let cached = cached.remove(&key);
            let is_cached = cached.is_some();
            let order = cached.or_else(|| stored.remove(&key)).unwrap_or_default();
            let store::StoredOrder { facts: before, version, mut fired } = order;
            let mut after = before.clone();
            after.join(*news);
            if version > 0 && after == before {
                if is_cached {
                    versions.push((key.clone(), version));
                }
                unchanged.push((key, store::StoredOrder { facts: before, version, fired }));
                continue;
            }
            let new = fired.fire(effects::new_messages(&key, &before, &after), now);
            messages.extend(new.map_err(|error| store::inconsistent_effects(&key, &error))?);
            changed.push(store::Change { key, before, after, fired, version: version + 1 });
        }
        // An order from the cache may have other facts in the meantime.
        store::check_versions(connection, &versions).await?;
        store::write(connection, &changed, now).await?;
        outbox::add(connection, &messages, now).await?;
        let changed = changed.into_iter().map(|store::Change { key, after, fired, version, .. }| {
            (key, store::StoredOrder { version, facts: after, fired })
        });
        unchanged.extend(changed);
        Ok(AppliedOrders(unchanged))
    }

    fn committed(&self, applied: AppliedOrders) {
        self.cache.add(applied.0);
    }

    fn connected(&self) {
        self.cache.clear();
    }
}
