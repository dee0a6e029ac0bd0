//! Resolves a selection to ranges of offsets.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};
use riverlock_ledger::{
    postgres::{TRANSACTION_LIMIT, bounded, cluster},
    reading::ranges::{OffsetRange, RangeError, ask_patiently, partition_counts},
    store as ledger_store,
};
use riverlock_runtime::{ConsumerGuard, kafka::REQUEST_TIMEOUT};
use riverlock_schemas::kafka::{partitioner, record};
use sqlx::PgConnection;

use crate::replay::model::{AssignedRange, Position, Selection};

use super::{Replay, ReplayError, store};

/// Margin around a selected time within which records are read: a partition's times can decrease when its leader
/// changes to a machine with another clock.
const TIME_MARGIN: TimeDelta = TimeDelta::minutes(5);

/// The ranges, and notes for the operator about how they were determined.
pub(super) struct ResolvedSelection {
    pub(super) ranges: Vec<AssignedRange>,
    pub(super) notes: Vec<String>,
}

/// One partition that a consumer reads.
struct SelectedPartition {
    consumer: &'static str,
    topic_id: i16,
    topic: String,
    partition: i32,
    /// The live consumer's offset.
    reached: i64,
}

/// Determines the ranges. Every range ends at the live consumer's offset, because the consumer reads the rest itself.
pub(super) async fn resolve(
    replay: &Replay<'_>,
    connection: &mut PgConnection,
    selection: &Selection,
) -> Result<ResolvedSelection, ReplayError> {
    check(selection)?;
    let limit = replay.postgres.answer_limit();
    cluster::ensure_current(replay.kafka, connection).await?;
    let mut notes = Vec::new();
    let topics = topics(replay, selection)?;
    let consumer = ConsumerGuard::create(&replay.kafka.client()).map_err(ReplayError::kafka("connect to Kafka"))?;
    let counts = partition_counts(&consumer, &topics.keys().cloned().collect::<Vec<_>>())?;
    let partitions = partitions(replay, connection, selection, &counts, &mut notes).await?;
    let known = bounded(limit, known_positions(connection, selection, &mut notes)).await?;

    let places = places(replay, connection, selection, (&topics, &counts), &partitions);
    let places = bounded(TRANSACTION_LIMIT, places).await?;
    let times = Times::look_up(&consumer, selection, &places)?;
    let mut ranges = Vec::new();
    for place in places {
        let (low, high) = ask_patiently(|| consumer.fetch_watermarks(&place.topic, place.partition, REQUEST_TIMEOUT))
            .map_err(ReplayError::kafka("get watermarks from Kafka"))?;
        let Some((start, end)) = bounds(selection, &place, (low, high), &mut notes)? else { continue };
        let start = times.start(&place).map_or(start, |offset| offset.max(start));
        let end = times.end(&place).map_or(end, |offset| offset.min(end));
        let SelectedPartition { topic_id, topic, partition, .. } = place;
        let make =
            |start, end| AssignedRange { topic_id, range: OffsetRange { topic: topic.clone(), partition, start, end } };
        match &known {
            None => ranges.push(make(start, end)),
            Some(known) => {
                let offsets = known.iter().filter(|position| (position.0, position.1) == (topic_id, partition));
                ranges.extend(offsets.filter(|at| (start..end).contains(&at.2)).map(|at| make(at.2, at.2 + 1)));
            }
        }
    }
    ranges.retain(|assigned| assigned.range.start < assigned.range.end);
    if ranges.is_empty() {
        return Err(ReplayError::Empty);
    }
    ranges.sort_by(|a, b| a.range.cmp(&b.range));
    Ok(ResolvedSelection { ranges, notes })
}

fn check(selection: &Selection) -> Result<(), ReplayError> {
    if let Some((start, end)) = selection.offsets
        && (start < 0 || start >= end)
    {
        return Err(ReplayError::EmptyOffsets(start, end));
    }
    match (selection.from, selection.until) {
        (Some(from), Some(until)) if from >= until => Err(ReplayError::EmptyTime(from, until)),
        _ => Ok(()),
    }
}

/// Returns the selected topics, each with its consumer; only those that can have an event of the selected types.
fn topics(replay: &Replay<'_>, selection: &Selection) -> Result<BTreeMap<String, &'static str>, ReplayError> {
    let all: BTreeMap<String, &'static str> = replay
        .consumers
        .iter()
        .flat_map(|consumer| consumer.topics.iter().map(|topic| (topic.clone(), consumer.name)))
        .collect();
    if let Some(topic) = selection.topics.iter().find(|topic| !all.contains_key(*topic)) {
        return Err(ReplayError::UnknownTopic { topic: topic.clone(), known: all.into_keys().collect() });
    }
    let names = replay.kafka.topics();
    let is_named = |topic: &String| selection.topics.is_empty() || selection.topics.contains(topic);
    let may_hold = |topic: &str| {
        selection.types.is_empty() || selection.types.iter().any(|event_type| names.may_hold(topic, event_type))
    };
    Ok(all.into_iter().filter(|(topic, _)| is_named(topic) && may_hold(topic)).collect())
}

/// Returns the selected partitions by topic. An order's records are in the partition that its id hashes to, in every
/// topic.
async fn partitions(
    replay: &Replay<'_>,
    connection: &mut PgConnection,
    selection: &Selection,
    counts: &BTreeMap<String, i32>,
    notes: &mut Vec<String>,
) -> Result<BTreeMap<String, BTreeSet<i32>>, ReplayError> {
    let most = counts.values().copied().max().unwrap_or_default();
    if let Some(&partition) = selection.partitions.iter().find(|partition| !(0..most).contains(*partition)) {
        return Err(ReplayError::UnknownPartition { partition, last: most - 1 });
    }
    let is_named = |partition: &i32| selection.partitions.is_empty() || selection.partitions.contains(partition);
    let mut wanted: BTreeMap<String, BTreeSet<i32>> =
        counts.iter().map(|(topic, count)| (topic.clone(), (0..*count).filter(is_named).collect())).collect();
    if selection.orders.is_empty() {
        return Ok(wanted);
    }
    let (configured, limit) = (replay.kafka.partitions, replay.postgres.answer_limit());
    let mut of_orders = BTreeSet::new();
    for order in &selection.orders {
        let partition = partitioner::partition(record::bounded(order).as_bytes(), configured);
        let known = bounded(limit, store::records_of_order(connection, order)).await?;
        notes.push(format!(
            "order {order}: the database has {known} of its records; partition {partition} of {} topics, which has \
             all of them, is read in case the database has lost some",
            counts.len()
        ));
        of_orders.insert(partition);
    }
    for (topic, partitions) in &mut wanted {
        match counts[topic] {
            count if count == configured => partitions.retain(|partition| of_orders.contains(partition)),
            // An order's partition depends on the number of partitions when its records were written.
            count => notes.push(format!(
                "{topic} has {count} partitions and kafka.partitions is {configured}: an order's records may be in any of \
                 them, so all selected partitions are read"
            )),
        }
    }
    Ok(wanted)
}

/// Returns the positions of the selected events, if the database has all of the events; otherwise `None`: they are
/// searched for.
async fn known_positions(
    connection: &mut PgConnection,
    selection: &Selection,
    notes: &mut Vec<String>,
) -> Result<Option<Vec<Position>>, ReplayError> {
    if selection.events.is_empty() {
        return Ok(None);
    }
    let found = store::records_of_events(connection, &selection.events).await?;
    let missing: Vec<&str> =
        selection.events.iter().map(String::as_str).filter(|id| !found.contains_key(*id)).collect();
    if missing.is_empty() {
        let positions: Vec<Position> = found.into_values().flatten().collect();
        notes.push(format!(
            "the database has the positions of the events: only these {} records are read",
            positions.len()
        ));
        return Ok(Some(positions));
    }
    let narrow = if selection.orders.is_empty() { "; use --order or --since to narrow the search" } else { "" };
    notes.push(format!(
        "the database does not have event {}: all selected records are searched for it{narrow}",
        missing.join(", ")
    ));
    Ok(None)
}

async fn places(
    replay: &Replay<'_>,
    connection: &mut PgConnection,
    selection: &Selection,
    (topics, counts): (&BTreeMap<String, &'static str>, &BTreeMap<String, i32>),
    partitions: &BTreeMap<String, BTreeSet<i32>>,
) -> Result<Vec<SelectedPartition>, ReplayError> {
    let names: Vec<String> = topics.keys().cloned().collect();
    let ids = ledger_store::topic_ids_to_read(connection, &names).await?;
    let mut offsets = HashMap::new();
    for consumer in replay.consumers {
        offsets.insert(consumer.name, ledger_store::offsets(connection, consumer.name).await?);
    }
    let mut places = Vec::new();
    for (topic, consumer) in topics {
        let (topic_id, count) = (ids[topic], counts[topic]);
        let is_gone = |partition: i32| {
            partition >= count && (selection.partitions.is_empty() || selection.partitions.contains(&partition))
        };
        let mut read = offsets[consumer].keys().filter(|key| key.0 == topic_id).map(|key| key.1);
        if let Some(partition) = read.find(|partition| is_gone(*partition)) {
            return Err(RangeError::NoPartition { topic: topic.clone(), partition, partitions: count }.into());
        }
        for &partition in &partitions[topic] {
            let reached = offsets[consumer].get(&(topic_id, partition)).copied().unwrap_or_default();
            places.push(SelectedPartition { consumer, topic_id, topic: topic.clone(), partition, reached });
        }
    }
    Ok(places)
}

/// Returns the offsets of a partition to read; `None` if there are none.
fn bounds(
    selection: &Selection,
    place: &SelectedPartition,
    (low, high): (i64, i64),
    notes: &mut Vec<String>,
) -> Result<Option<(i64, i64)>, ReplayError> {
    let SelectedPartition { consumer, topic, partition, reached, .. } = place;
    if *reached > high {
        notes.push(format!(
            "{topic}[{partition}] ends at {high}, but {consumer} has read up to {reached}: Kafka has lost records"
        ));
    }
    let all = (low, high.min(*reached));
    let Some((start, end)) = selection.offsets else { return Ok(Some(all)) };
    if start < low || end > high {
        return Err(ReplayError::NotInKafka { topic: topic.clone(), partition: *partition, low, high, start, end });
    }
    if start >= *reached {
        let (topic, partition) = (topic.clone(), *partition);
        return Err(ReplayError::NotReached { consumer, topic, partition, reached: *reached, start, end });
    }
    if end > *reached {
        notes.push(format!(
            "{topic}[{partition}]: records from offset {reached} on are left out, {consumer} will read them itself"
        ));
    }
    Ok(Some((start, end.min(*reached))))
}

/// Offsets by time, for every selected partition.
struct Times {
    from: Option<HashMap<(String, i32), Offset>>,
    until: Option<HashMap<(String, i32), Offset>>,
}

impl Times {
    fn look_up(
        consumer: &BaseConsumer,
        selection: &Selection,
        places: &[SelectedPartition],
    ) -> Result<Self, ReplayError> {
        let look_up = |time: Option<DateTime<Utc>>| {
            let Some(time) = time else { return Ok::<_, ReplayError>(None) };
            let mut list = TopicPartitionList::new();
            for place in places {
                let millis = Offset::Offset(time.timestamp_millis().max(0));
                let added = list.add_partition_offset(&place.topic, place.partition, millis);
                added.map_err(ReplayError::kafka("request offsets by time from Kafka"))?;
            }
            let found = consumer
                .offsets_for_times(list, REQUEST_TIMEOUT)
                .map_err(ReplayError::kafka("get offsets by time from Kafka"))?;
            let mut offsets = HashMap::new();
            for element in found.elements() {
                element.error().map_err(ReplayError::kafka("get offsets by time from Kafka"))?;
                offsets.insert((element.topic().to_owned(), element.partition()), element.offset());
            }
            Ok(Some(offsets))
        };
        Ok(Self {
            from: look_up(selection.from.map(|from| from - TIME_MARGIN))?,
            until: look_up(selection.until.map(|until| until + TIME_MARGIN))?,
        })
    }

    /// First offset within the selected time; `i64::MAX` if no record is that new.
    fn start(&self, place: &SelectedPartition) -> Option<i64> {
        let offset = self.from.as_ref()?.get(&(place.topic.clone(), place.partition)).copied();
        Some(if let Some(Offset::Offset(offset)) = offset { offset } else { i64::MAX })
    }

    /// First offset after the selected time; `None` if no record is that new.
    fn end(&self, place: &SelectedPartition) -> Option<i64> {
        match self.until.as_ref()?.get(&(place.topic.clone(), place.partition)) {
            Some(Offset::Offset(offset)) => Some(*offset),
            _ => None,
        }
    }
}
