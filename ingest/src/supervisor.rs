//! Brings the producer to work and keeps it there: warm-up before the first event, replacement after a fatal error.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::Counter;
use rdkafka::{message::OwnedHeaders, producer::Producer as _};
use riverlock_runtime::Component;
use riverlock_schemas::topics::Topics;
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::PROCESS,
    producer::{Delivery, Producer, Record},
};

/// How long each question of the warm-up may take.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long after a warm-up that failed the next one begins.
const WARM_UP_PAUSE: Duration = Duration::from_millis(500);

/// How often the breaker's state is put into the metrics and the log when no request does.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Supervises until the process is asked to end.
pub(crate) async fn supervise(producer: Arc<Producer>, topics: Topics, component: Component, soft: CancellationToken) {
    let forever = keep_working(&producer, &topics, &component);
    match soft.run_until_cancelled(forever).await {
        Some(never) => match never {},
        None => component.not_ready("ending"),
    }
}

async fn keep_working(producer: &Arc<Producer>, topics: &Topics, component: &Component) -> Infallible {
    loop {
        if let Some(reason) = fatal_error(producer) {
            producer.set_accepting(false);
            component.not_ready(format!("the Kafka producer failed for good and is replaced: {reason}"));
            if let Err(error) = producer.replace().await {
                tracing::error!(%error, "a new Kafka producer could not be made: {error}");
                tokio::time::sleep(WARM_UP_PAUSE).await;
                continue;
            }
        }
        match warm_up(producer, topics).await {
            Ok(()) => {
                producer.set_accepting(true);
                component.ready();
                until_failure(producer).await;
            }
            Err(reason) => {
                component.not_ready(reason);
                tokio::time::sleep(WARM_UP_PAUSE).await;
            }
        }
    }
}

fn fatal_error(producer: &Producer) -> Option<String> {
    producer.handle()?.client().fatal_error().map(|(code, reason)| format!("{code}: {reason}"))
}

/// Connects, learns where every topic's partitions are, and writes one record, so that the first event pays for none of it.
async fn warm_up(producer: &Arc<Producer>, topics: &Topics) -> Result<(), String> {
    let handle = producer.handle().ok_or("the Kafka producer is closed")?;
    let mut names = topics.all_raw();
    names.push(topics.probe());
    let quarantine = topics.quarantine();
    let asked = tokio::task::spawn_blocking(move || {
        let missing = |name: &String| match handle.client().fetch_metadata(Some(name), WARM_UP_TIMEOUT) {
            Ok(metadata) => {
                let exists =
                    metadata.topics().iter().any(|topic| topic.name() == name && !topic.partitions().is_empty());
                if exists { Ok(()) } else { Err(format!("topic {name} is missing (`riverlock setup` creates it)")) }
            }
            Err(error) => Err(format!("Kafka does not tell where topic {name} is: {error}")),
        };
        names.iter().try_for_each(missing)?;
        // Events do not depend on it.
        missing(&quarantine).unwrap_or_else(|reason| tracing::warn!("nothing can be kept in quarantine: {reason}"));
        Ok::<_, String>(())
    });
    asked.await.map_err(|error| format!("asking Kafka for its topics panicked: {error}"))??;

    let topic = topics.probe();
    let admission = producer.reserve().map_err(|refusal| refusal.to_string())?;
    let record = Record { topic: &topic, key: "ingest", payload: b"", headers: OwnedHeaders::new() };
    let mut delivery = producer.send(record, admission, Counter::noop()).map_err(|refusal| refusal.to_string())?;
    match producer.delivered(&mut delivery, tokio::time::Instant::now() + WARM_UP_TIMEOUT).await {
        Delivery::Persisted { .. } => Ok(()),
        Delivery::NotPersisted(code) => Err(format!("Kafka does not take a record: {code}")),
        Delivery::Ambiguous(_) => Err(format!("Kafka does not acknowledge a record: {}", producer.shared.last_error())),
    }
}

/// Ends when the producer fails for good. Until then, tells how the breaker is.
async fn until_failure(producer: &Producer) {
    while fatal_error(producer).is_none() {
        let (open, changed) = producer.shared.breaker.look(Instant::now());
        PROCESS.breaker_open.set(if open { 1.0 } else { 0.0 });
        match (changed, open) {
            (true, true) => {
                let reason = producer.shared.last_error();
                tracing::warn!("Kafka does not acknowledge events: refusing them at once ({reason})");
            }
            (true, false) => tracing::info!("Kafka acknowledges events again"),
            (false, _) => {}
        }
        // Either: a failure is seen at once, everything else soon.
        let _ = tokio::time::timeout(LOOK_INTERVAL, producer.shared.failed.notified()).await;
    }
}
