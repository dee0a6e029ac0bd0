//! Selection by time, which needs Apache Kafka.

use chrono::TimeDelta;
use riverlock_recovery::replay::Selection;
use riverlock_runtime::kafka::{KafkaConfig, topics};
use riverlock_sandbox::stack::{self, Kafka, kafka_for_test};

use super::harness::Setting;

#[tokio::test(flavor = "multi_thread")]
async fn records_are_selected_by_kafkas_timestamp() {
    if !kafka_for_test("records_are_selected_by_kafkas_timestamp") {
        return;
    }
    let folder = stack::temporary_dir().unwrap();
    let mut broker = Kafka::start(&folder.path().join("kafka"), &[stack::ports::free_port().unwrap()]).await.unwrap();
    let kafka = KafkaConfig { brokers: broker.bootstrap(), partitions: 4, ..KafkaConfig::default() };
    topics::create(&kafka).await.unwrap();
    let setting = Setting::on(kafka, None).await;
    setting.produce(setting.more(61, 20)).await;
    let first = setting.records();
    setting.consume_all().await;
    // Kafka's timestamps have milliseconds: later records get a later one.
    let newest = "SELECT (extract(epoch FROM max(received_at)) * 1000)::bigint FROM event_records";
    let until = chrono::DateTime::from_timestamp_millis(setting.count(newest).await + 1).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    setting.produce(setting.more(62, 30)).await;
    setting.consume_all().await;
    let complete = setting.state().await;
    setting.lose("true").await;

    let all = setting.records();
    let early = setting.plan(&Selection { until: Some(until), ..Selection::default() }).await.unwrap();
    assert_eq!((early.report.records, early.report.known), (first, 0));
    let late = setting.plan(&Selection { from: Some(until), ..Selection::default() }).await.unwrap();
    assert_eq!(late.report.records, all - first);
    let hour = TimeDelta::hours(1);
    let far = Selection { from: Some(until + hour), until: Some(until + hour * 2), ..Selection::default() };
    assert!(setting.plan(&far).await.unwrap_err().to_string().contains("nothing to replay"));

    assert!(setting.apply(&early).await.unwrap().done);
    assert!(setting.apply(&late).await.unwrap().done);
    assert_eq!(setting.state().await, complete);
    setting.audit().await;
    broker.stop().await.unwrap();
}
