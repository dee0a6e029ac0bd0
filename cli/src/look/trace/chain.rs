//! Collects what is stored about an id.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use riverlock_ingest::IngestConfig;
use riverlock_invoice_fetcher::queue::view::{self as documents, InvoiceView};
use riverlock_ledger::{
    postgres::{bounded, cluster},
    view::{self, EventView, MessageView},
};
use riverlock_processor::{
    history::{CausedEffect, History, HistoryStep},
    store,
};
use riverlock_runtime::{Clock as _, SystemClock, with_causes};
use riverlock_schemas::{
    EventId, OrderId,
    kafka::{
        record::{self, Position},
        topics::{RawConsumer, without_cluster},
    },
};
use sqlx::PgConnection;

use crate::{config::Config, repair::quarantine::verdict::Authenticator, terminal::out};

use super::{
    args::{IdKind, TraceOptions},
    model::{RecordTrace, Trace},
    receipt::{self, Receipt, RecordLookup},
};

/// Traces an id. Records that Kafka cannot provide are part of the trace and no error.
pub(super) async fn follow(
    config: &Config,
    connection: &mut PgConnection,
    options: &TraceOptions,
) -> anyhow::Result<Trace> {
    let limit = config.postgres.answer_limit();
    let (mut known_as, mut events) = (Vec::new(), BTreeMap::new());
    let mut orders = BTreeSet::new();
    if options.kind != Some(IdKind::Order) {
        let found = bounded(limit, view::records_of_event(connection, &event_key(&options.id))).await?;
        if !found.is_empty() {
            known_as.push("event");
        }
        add(&mut events, found);
    }
    if options.kind != Some(IdKind::Event) && OrderId::parse(options.id.as_str()).is_ok() {
        let found = bounded(limit, view::events_of_order(connection, &options.id)).await?;
        let is_order = !found.is_empty() || !bounded(limit, store::find(connection, &options.id)).await?.is_empty();
        if is_order {
            known_as.push("order");
            orders.insert(options.id.clone());
        }
        add(&mut events, found);
    }
    let traced: BTreeSet<Position> = events.values().map(EventView::position).collect();
    orders.extend(events.values().filter_map(|event| event.order_id.clone()));

    // The changes of the traced events follow from all events of their orders.
    let mut histories: BTreeMap<String, Vec<EventView>> = BTreeMap::new();
    for order_id in &orders {
        let events = bounded(limit, view::events_of_order(connection, order_id)).await?;
        histories.insert(order_id.clone(), in_order(events));
    }
    let rows_max = usize::try_from(view::ROWS_MAX).unwrap_or(usize::MAX);
    let truncated = events.len() >= rows_max || histories.values().any(|events| events.len() >= rows_max);
    let last = in_order(events.values().cloned()).last().map(processing_key);
    let applied = histories.values().flatten();
    let applied = applied.filter(|event| is_applied(config, event) && Some(processing_key(event)) <= last);
    let wanted: BTreeSet<Position> = traced.iter().cloned().chain(applied.map(EventView::position)).collect();
    let kafka = config.kafka.clone();
    let found = match cluster::ensure_current(&config.kafka, connection).await {
        Ok(()) => tokio::task::spawn_blocking(move || receipt::read(&kafka, &wanted)).await??,
        Err(error) => {
            wanted.into_iter().map(|position| (position, RecordLookup::Unreadable(error.to_string()))).collect()
        }
    };

    let mut collector = Collector { config, found: &found, steps: BTreeMap::new() };
    if !truncated {
        histories.values().for_each(|events| collector.apply(events, last.as_ref()));
    }
    collector.finish(connection, options, known_as, in_order(events.into_values()), &orders, truncated).await
}

struct Collector<'a> {
    config: &'a Config,
    found: &'a BTreeMap<Position, RecordLookup>,
    steps: BTreeMap<Position, HistoryStep>,
}

impl Collector<'_> {
    /// Applies an order's events up to the first record that cannot be read: later changes would be uncertain.
    fn apply(&mut self, events: &[EventView], last: Option<&ProcessingKey>) {
        let (mut history, mut bodies) = (History::default(), BTreeSet::new());
        for event in events.iter().filter(|event| is_applied(self.config, event)) {
            // A duplicate with the same body has no effect.
            if !bodies.insert((&event.event_id, &event.body_sha256)) && event.outcome == DUPLICATE {
                continue;
            }
            if Some(&processing_key(event)) > last {
                return;
            }
            let position = event.position();
            let Some(RecordLookup::Found(record)) = self.found.get(&position) else { return };
            if let Some(step) = history.apply(&record.body, Some(event.received_at), event.outcome == CONFLICT) {
                self.steps.insert(position, step);
            }
        }
    }

    async fn finish(
        mut self,
        connection: &mut PgConnection,
        options: &TraceOptions,
        known_as: Vec<&'static str>,
        events: Vec<EventView>,
        orders: &BTreeSet<String>,
        truncated: bool,
    ) -> anyhow::Result<Trace> {
        let limit = self.config.postgres.answer_limit();
        let ingest = with_readable_secrets(&self.config.ingest);
        let authenticator = Authenticator::new(&ingest, SystemClock.now());
        let (mut views, mut messages) = (Vec::new(), BTreeMap::new());
        for order_id in orders {
            views.extend(bounded(limit, store::find(connection, order_id)).await?);
            let of_order = bounded(limit, view::messages_of_order(connection, order_id)).await?;
            messages.insert(order_id.clone(), of_order);
        }
        let mut records = Vec::with_capacity(events.len());
        for event in events {
            let position = event.position();
            let receipt = Receipt::new(&self.found[&position], &event.body_sha256, &authenticator);
            let transition = self.steps.remove(&position);
            let mut caused = transition.as_ref().map(|step| take_caused(step, &mut messages)).unwrap_or_default();
            let dead_letter = match event.outcome.as_str() {
                DEAD => bounded(limit, view::dead_letter(connection, &position)).await?,
                _ => None,
            };
            let mut invoices = Vec::new();
            if let Some(order_id) = event.order_id.as_deref().filter(|_| event.outcome == APPLIED) {
                let announced = documents::announced_by(connection, order_id, &event.event_id);
                for file_id in bounded(limit, announced).await? {
                    invoices.extend(bounded(limit, documents::find(connection, file_id)).await?);
                }
                caused.extend(take_announcements(&invoices, order_id, &mut messages));
            }
            records.push(RecordTrace { event, receipt, transition, messages: caused, dead_letter, invoices });
        }
        let other_messages = match known_as.contains(&"order") {
            true => messages.into_values().flatten().collect(),
            false => Vec::new(),
        };
        let intact = records.iter().all(|record| record.receipt.is_intact());
        Ok(Trace { id: options.id.clone(), known_as, intact, truncated, orders: views, records, other_messages })
    }
}

/// The endpoints with the signing secrets that this process can read; a trace does not need all of them.
fn with_readable_secrets(config: &IngestConfig) -> IngestConfig {
    let mut config = config.clone();
    for endpoint in &mut config.endpoints {
        let name = endpoint.name.clone();
        endpoint.secrets.retain(|secret| {
            match secret.secret.read(&format!("secret {} of endpoint {name}", secret.id)) {
                Ok(_) => true,
                Err(error) => {
                    out::note(&format!("signatures with this secret are not verified: {}", with_causes(&error)));
                    false
                }
            }
        });
    }
    config
}

const APPLIED: &str = "applied";
const CONFLICT: &str = "conflict";
const DUPLICATE: &str = "duplicate";
const DEAD: &str = "dead";

/// Removes the messages that a step caused from those of its order.
fn take_caused(step: &HistoryStep, messages: &mut BTreeMap<String, Vec<MessageView>>) -> Vec<MessageView> {
    let Some(messages) = messages.get_mut(step.order_id.as_str()) else { return Vec::new() };
    let is_caused = |message: &mut MessageView| {
        let is = |effect: &CausedEffect| effect.kind == message.kind && effect.effect_key == message.effect_key;
        message.live_mode == step.mode.is_live() && step.effects.iter().any(is)
    };
    messages.extract_if(.., is_caused).collect()
}

/// Removes the messages that announce these stored documents from those of the order.
fn take_announcements(
    invoices: &[InvoiceView],
    order_id: &str,
    messages: &mut BTreeMap<String, Vec<MessageView>>,
) -> Vec<MessageView> {
    let Some(messages) = messages.get_mut(order_id) else { return Vec::new() };
    let files: BTreeSet<String> = invoices.iter().map(|invoice| invoice.file_id.to_string()).collect();
    messages.extract_if(.., |message| files.contains(&message.effect_key)).collect()
}

/// Whether the processor applied a record. Records of files belong to the invoice-fetcher.
fn is_applied(config: &Config, event: &EventView) -> bool {
    [APPLIED, CONFLICT, DUPLICATE].contains(&event.outcome.as_str())
        && config.kafka.topics().consumer_of(without_cluster(&event.topic)) != Some(RawConsumer::InvoiceFetcher)
}

/// Orders records as they were processed: batch by batch, and within a batch by the time of receipt.
type ProcessingKey = (DateTime<Utc>, DateTime<Utc>, String, i32, i64);

fn processing_key(event: &EventView) -> ProcessingKey {
    (event.recorded_at, event.received_at, event.topic.clone(), event.partition, event.offset)
}

fn in_order(events: impl IntoIterator<Item = EventView>) -> Vec<EventView> {
    let mut events: Vec<_> = events.into_iter().collect();
    events.sort_by_key(processing_key);
    events
}

fn add(events: &mut BTreeMap<Position, EventView>, found: Vec<EventView>) {
    events.extend(found.into_iter().map(|event| (event.position(), event)));
}

/// The id as the ledger stores it.
fn event_key(id: &str) -> String {
    EventId::parse(id).map_or_else(|_| record::hashed(id), |id| id.to_string())
}
