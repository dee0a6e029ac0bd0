//! An upgrade from a version that had a raw topic for each of some event types.

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};
use riverlock_ledger::consumer::{self, BatchConfig};
use riverlock_runtime::Context;
use riverlock_sandbox::{
    PlannedEvent,
    stack::{Signal, kafka_for_test},
};
use riverlock_schemas::kafka::topics::{RawConsumer, Topics};
use riverlock_tests::{Database, events, lives, state};
use serde_json::Value;

use crate::harness::{
    PATIENCE,
    install::Install,
    raw::{Consumers, execute, invoices, orders},
};

const ORDERS: u64 = 60;

/// The topic that the earlier version wrote a type to.
fn former(event_type: &str) -> String {
    let name = Topics::default_former_types().find(|name| *name == event_type).unwrap_or("other");
    format!("riverlock.raw.{name}")
}

fn former_topics() -> Vec<String> {
    let mut topics: Vec<String> = Topics::default_former_types().chain(["other"]).map(former).collect();
    topics.sort();
    topics
}

async fn create_former(install: &Install) {
    let admin: AdminClient<DefaultClientContext> = install.kafka.client().create().unwrap();
    let topics = former_topics();
    let new: Vec<NewTopic<'_>> = topics
        .iter()
        .map(|topic| {
            NewTopic::new(topic, install.kafka.partitions, TopicReplication::Fixed(1))
                .set("message.timestamp.type", "LogAppendTime")
                .set("max.message.bytes", "4456448")
        })
        .collect();
    for created in admin.create_topics(&new, &AdminOptions::new()).await.unwrap() {
        created.unwrap();
    }
}

/// Runs the consumers of the earlier version until they have read this many records.
#[expect(clippy::disallowed_methods, reason = "the consumers are awaited")]
async fn consume_former(install: &Install, records: usize) {
    let (names, context) = (install.kafka.topics(), Context::new());
    let read_by = |consumer: RawConsumer| -> Vec<String> {
        former_topics().into_iter().filter(|topic| names.consumer_of(topic) == Some(consumer)).collect()
    };
    let (of_orders, of_documents) = (read_by(RawConsumer::Processor), read_by(RawConsumer::InvoiceFetcher));
    let settings = || (install.kafka.clone(), install.database.config.clone(), context.clone());
    let processor = {
        let (kafka, postgres, context) = settings();
        tokio::spawn(async move {
            consumer::run(orders(), of_orders, BatchConfig::default(), &kafka, &postgres, &context).await
        })
    };
    let fetcher = {
        let (kafka, postgres, context) = settings();
        tokio::spawn(async move {
            consumer::run(invoices(), of_documents, BatchConfig::default(), &kafka, &postgres, &context).await
        })
    };
    install.until_outcomes(records).await;
    Consumers::of(context, vec![processor, fetcher]).end().await;
}

/// The unread records of each topic of the earlier version, as `setup` reports them.
async fn unread(install: &Install) -> Vec<(String, u64)> {
    let report: Value = serde_json::from_str(&install.run(&["setup", "--json"]).await).unwrap();
    let topics = report["formerTopics"].as_array().unwrap().iter();
    topics.map(|topic| (topic["name"].as_str().unwrap().to_owned(), topic["unreadRecords"].as_u64().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_of_an_earlier_version_are_read_to_their_ends() {
    if !kafka_for_test("topics_of_an_earlier_version_are_read_to_their_ends") {
        return;
    }
    let install = Install::start().await;
    create_former(&install).await;
    let lives = lives(72, ORDERS);
    let all: Vec<&PlannedEvent> = events(&lives).collect();
    let (read, rest) = all.split_at(all.len() / 3);
    // Not read before the upgrade; written by an ingest that is not upgraded yet; written by the new version.
    let (waiting, rest) = rest.split_at(rest.len() / 2);
    let (late, new) = rest.split_at(rest.len() / 4);

    install.produce(read.iter().copied(), former).await;
    // The earlier version recorded the cluster.
    install.run(&["setup"]).await;
    consume_former(&install, read.len()).await;
    install.produce(waiting.iter().copied(), former).await;
    let own = |found: &[(String, u64)]| found.iter().map(|(_, unread)| unread).sum::<u64>();
    let found = unread(&install).await;
    let others = waiting.iter().filter(|event| former(event.event_type) == "riverlock.raw.other").count();
    assert_eq!(own(&found), (waiting.len() - others) as u64, "{found:?}");
    assert_eq!(found.len(), former_topics().len() - 1, "`other` is still in use: {found:?}");
    assert!(install.run(&["setup"]).await.contains("of an earlier version, "));

    let services = [install.service("processor").await, install.service("invoice-fetcher").await];
    install.produce(late.iter().copied(), former).await;
    let topics = install.kafka.topics();
    install.produce(new.iter().copied(), |event_type| topics.raw(event_type)).await;
    install.until_outcomes(all.len()).await;
    let found = unread(&install).await;
    assert_eq!((own(&found), found.len()), (0, former_topics().len() - 1), "{found:?}");
    for service in services {
        service.process.stop(Signal::TERM, PATIENCE).await.unwrap();
    }

    let audit = install.run(&["audit"]).await;
    assert!(audit.contains(&format!("acknowledged={} ", all.len())) && audit.contains("OK"), "{audit}");
    for event_type in ["order.accepted", "order.cancelled", "order.invoice.created"] {
        let events = all.iter().filter(|event| event.event_type == event_type).count();
        assert!(events > 0, "no {event_type}: the test showed nothing");
        let replay: Value =
            serde_json::from_str(&install.run(&["replay", "--type", event_type, "--json"]).await).unwrap();
        assert_eq!(replay["report"]["records"], events, "{event_type}: {replay}");
    }
    install.run(&["rebuild"]).await;
    assert_same_orders(&install, &all).await;
    // What a replay finds in the topics of the earlier version can be applied.
    execute(
        &mut install.database.connect().await.unwrap(),
        "DELETE FROM event_records WHERE event_type = 'order.accepted'",
    )
    .await;
    let replay: Value =
        serde_json::from_str(&install.run(&["replay", "--type", "order.accepted", "--json"]).await).unwrap();
    let plan = replay["plan"].as_str().unwrap();
    install.run(&["replay", "--plan", plan, "--apply", "--reason", "the database lost rows"]).await;
    install.run(&["audit"]).await;
    install.stop().await;
}

/// The orders equal those of a database to which all events were applied in order.
async fn assert_same_orders(install: &Install, all: &[&PlannedEvent]) {
    let reference = Database::create().await.unwrap();
    let mut plain = reference.connect().await.unwrap();
    let records = all.iter().zip(0..).filter(|(event, _)| !former(event.event_type).contains(".created"));
    let records: Vec<_> = records.map(|(event, offset)| riverlock_tests::record(0, offset, &event.body)).collect();
    riverlock_ledger::batch::apply(&mut plain, &orders(), &records, None, riverlock_tests::now()).await.unwrap();
    let found = state(&mut install.database.connect().await.unwrap()).await.unwrap();
    assert_eq!(found, state(&mut plain).await.unwrap());
}
