//! Selection of records by order, event, topic, partition and offset, and invalid selections.

use std::time::Duration;

use riverlock_ledger::reading::ranges::RangeError;
use riverlock_recovery::replay::{self, ReplayError, Selection};
use riverlock_runtime::kafka::KafkaConfig;
use riverlock_sandbox::stack::EmbeddedBroker;
use riverlock_schemas::{Envelope, kafka::partitioner};

use super::harness::{Setting, Watcher, has_type};

const ORDERS: &str = "riverlock.raw.orders";

fn order(id: &str) -> Selection {
    Selection { orders: vec![id.to_owned()], ..Selection::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_found_by_partition_and_events_by_stored_position() {
    let setting = Setting::with_orders(51, 40).await;
    let complete = setting.state().await;
    let bodies = setting.bodies();
    let (_, id, body) = bodies.iter().find(|record| has_type(record, "order.complete")).unwrap();
    let of_order = bodies.iter().filter(|(_, key, _)| key == id).count() as u64;
    let event = Envelope::parse(body).unwrap().id.to_string();

    let (planned, notes) = setting.plan_and_notes(&order(id)).await;
    assert_eq!((planned.report.records, planned.report.known), (of_order, of_order));
    assert!(planned.read < setting.records(), "only one partition is read: {planned:?}");
    let partition = partitioner::partition(id.as_bytes(), setting.kafka().partitions);
    assert!(notes.contains(&format!("has {of_order} of its records; partition {partition} of")), "{notes}");

    let one = Selection { events: vec![event.clone()], ..Selection::default() };
    let (planned, notes) = setting.plan_and_notes(&one).await;
    assert_eq!((planned.read, planned.report.records), (1, 1));
    assert!(notes.contains("the database has the positions"), "{notes}");

    setting.lose(&format!("order_id = '{id}'")).await;
    let (planned, notes) = setting.plan_and_notes(&one).await;
    assert_eq!((planned.read, planned.report.records), (setting.records(), 1));
    assert!(notes.contains(&format!("does not have event {event}")), "{notes}");
    assert_eq!(planned.report.fresh(), 1);
    let narrowed = Selection { orders: vec![id.clone()], ..one };
    let (planned, _) = setting.plan_and_notes(&narrowed).await;
    assert!(planned.read < setting.records() && planned.report.fresh() == 1, "{planned:?}");
    assert!(setting.apply(&planned).await.unwrap().done);

    let planned = setting.plan(&order(id)).await.unwrap();
    assert_eq!((planned.report.records, planned.report.known), (of_order, 1));
    assert!(setting.apply(&planned).await.unwrap().done);
    assert_eq!(setting.state().await, complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_types_partitions_and_offsets_select_matching_records() {
    let setting = Setting::with_orders(52, 40).await;
    setting.lose("true").await;
    let bodies = setting.bodies();
    let in_topic = bodies.iter().filter(|(topic, ..)| topic == ORDERS).count() as u64;
    let selection = Selection { topics: vec![ORDERS.to_owned()], ..Selection::default() };
    assert_eq!(setting.plan(&selection).await.unwrap().report.records, in_topic);
    for types in [&["order.accepted"] as &[&str], &["order.accepted", "order.invoice.created"]] {
        let of_type = bodies.iter().filter(|record| types.iter().any(|name| has_type(record, name))).count() as u64;
        let of_types = Selection { types: types.iter().map(ToString::to_string).collect(), ..Selection::default() };
        let planned = setting.plan(&of_types).await.unwrap();
        assert_eq!(planned.report.records, of_type, "{types:?}");
        assert!(of_type > 10 && of_type < planned.read, "{of_type}: the test showed nothing");
    }
    let documents = Selection { types: vec!["order.invoice.created".to_owned()], ..Selection::default() };
    let planned = setting.plan(&documents).await.unwrap();
    assert!(planned.read < in_topic, "the topic of orders is not read: {planned:?}");
    let in_partition = bodies
        .iter()
        .filter(|(topic, key, _)| topic == ORDERS && partitioner::partition(key.as_bytes(), 4) == 2)
        .count() as u64;
    assert!(in_partition > 3, "{in_partition} records are in the partition: the test showed nothing");
    let selection = Selection { partitions: vec![2], ..selection };
    assert_eq!(setting.plan(&selection).await.unwrap().report.records, in_partition);
    let three = Selection { offsets: Some((1, 4)), ..selection.clone() };
    let planned = setting.plan(&three).await.unwrap();
    assert_eq!((planned.read, planned.report.outcomes["applied"]), (3, 3));
    assert!(setting.apply(&planned).await.unwrap().done);
    let stored: Vec<i64> = sqlx::query_scalar("SELECT record_offset FROM event_records ORDER BY 1")
        .fetch_all(&mut setting.connect().await)
        .await
        .unwrap();
    assert_eq!(stored, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unconfigured_partitions_are_replayed_too() {
    let kafka = KafkaConfig { partitions: 3, session_timeout: Duration::from_secs(6), ..KafkaConfig::default() };
    let cluster = EmbeddedBroker::start(kafka.topics().all_raw().into_iter().map(|topic| (topic, 5))).unwrap();
    let setting = Setting::on(KafkaConfig { brokers: cluster.bootstrap(), ..kafka }, Some(cluster)).await;
    setting.produce(setting.more(56, 40)).await;
    setting.consume_all().await;
    let complete = setting.state().await;
    let beyond = setting.count("SELECT count(*) FROM event_records WHERE partition >= 3").await;
    assert!(beyond > 10, "{beyond} records are there: the test showed nothing");
    setting.lose("true").await;

    let (_, id, _) =
        setting.bodies().into_iter().find(|(_, key, _)| partitioner::partition(key.as_bytes(), 5) > 2).unwrap();
    let of_order = setting.bodies().iter().filter(|(_, key, _)| *key == id).count() as u64;
    let (planned, notes) = setting.plan_and_notes(&order(&id)).await;
    assert_eq!(planned.report.records, of_order);
    assert!(notes.contains("has 5 partitions and kafka.partitions is 3"), "{notes}");
    let partition = |partition| Selection { partitions: vec![partition], ..Selection::default() };
    assert!(setting.plan(&partition(4)).await.unwrap().report.records > 0);
    let error = setting.plan(&partition(5)).await.unwrap_err();
    assert!(matches!(error, ReplayError::UnknownPartition { partition: 5, last: 4 }), "{error}");
    let planned = setting.plan(&Selection::default()).await.unwrap();
    assert_eq!(planned.report.fresh(), setting.records());
    assert!(setting.apply(&planned).await.unwrap().done);
    assert_eq!(setting.state().await, complete);

    // The topics were replaced by ones with fewer partitions.
    let more = "INSERT INTO consumer_offsets (consumer, topic_id, partition, next_offset)
                SELECT consumer, topic_id, 7, 9 FROM consumer_offsets LIMIT 1";
    sqlx::query(more).execute(&mut setting.connect().await).await.unwrap();
    let error = setting.plan(&Selection::default()).await.unwrap_err();
    let is_reported = matches!(error, ReplayError::Range(RangeError::NoPartition { partition: 7, partitions: 5, .. }));
    assert!(is_reported, "{error}");
    assert!(setting.plan(&partition(4)).await.is_ok(), "the others can be read");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_the_live_consumer_has_not_read_are_not_replayed() {
    let setting = Setting::with_orders(53, 10).await;
    let before = setting.records();
    setting.produce(setting.more(54, 10)).await;
    let planned = setting.plan(&Selection::default()).await.unwrap();
    assert_eq!((planned.plan, planned.report.records), (None, before));
    setting.consume_all().await;
    setting.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_selections_are_rejected_with_a_reason() {
    let setting = Setting::with_orders(55, 20).await;
    let partition = |partition, offsets| Selection {
        topics: vec![ORDERS.to_owned()],
        partitions: vec![partition],
        offsets: Some(offsets),
        ..Selection::default()
    };
    let topic = Selection { topics: vec!["order.accepted".to_owned()], ..Selection::default() };
    let time = chrono::DateTime::UNIX_EPOCH;
    let times = Selection { from: Some(time), until: Some(time), ..Selection::default() };
    for (selection, reason) in [
        (topic, "--type selects an event type"),
        (partition(4, (0, 1)), "there is no partition 4: the selected topics have partitions 0 to 3"),
        (partition(0, (3, 3)), "the offset range 3..3 is empty"),
        (partition(0, (-1, 3)), "the offset range -1..3 is empty"),
        (partition(0, (0, 1_000_000)), "0..1000000 is not completely there"),
        (times, "is empty"),
    ] {
        let error = setting.plan(&selection).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let consumers = setting.consumers();
    let replay = setting.replay(&consumers);
    for (plan, reason) in
        [("0123456789", "there is no plan 0123456789"), ("xyz", "is not a plan hash"), ("", "is not a plan")]
    {
        let error = replay::apply(&replay, plan, &mut Watcher::default()).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }

    // The database was restored after the plan was made, and its consumers have not caught up.
    setting.lose("true").await;
    let planned = setting.plan(&Selection::default()).await.unwrap();
    sqlx::query("UPDATE consumer_offsets SET next_offset = 0").execute(&mut setting.connect().await).await.unwrap();
    let error = setting.apply(&planned).await.unwrap_err();
    assert!(matches!(error, ReplayError::ConsumerRegressed { .. }), "{error}");
    let error = setting.plan(&partition(0, (0, 1))).await.unwrap_err();
    assert!(matches!(error, ReplayError::NotReached { .. }), "{error}");
    let error = setting.plan(&Selection::default()).await.unwrap_err();
    assert!(matches!(error, ReplayError::Empty), "{error}");
}
