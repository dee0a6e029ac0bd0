//! Kafka and PostgreSQL stopped under load: deliveries are rejected in time, and nothing acknowledged is lost. Also: unusual
//! authenticated requests are stored and read.

use std::time::Duration;

use riverlock_sandbox::stack::kafka_for_test;
use riverlock_tests::{World, load::Target, outcomes};

/// Digital River waits 3000 ms for an answer; ingest must answer well before.
const ANSWER_MAX: Duration = Duration::from_millis(2_900);

#[tokio::test(flavor = "multi_thread")]
async fn kafka_and_postgres_stop_under_load_and_nothing_is_lost() {
    if !kafka_for_test("kafka_and_postgres_stop_under_load_and_nothing_is_lost") {
        return;
    }
    let mut world = World::start(12, 400, 100).await.unwrap();
    let playing = world.begin();
    tokio::time::sleep(Duration::from_secs(3)).await;

    world.local.kafka().unwrap().stop_node(1).await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    world.local.kafka().unwrap().start_node(1).await.unwrap();

    world.local.postgres.kill().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.local.postgres.restart().await.unwrap();

    let report = playing.await.unwrap().unwrap();
    let refused = report.counts.refused.get(&503).copied().unwrap_or_default();
    assert!(refused > 0, "no delivery was rejected while Kafka was unavailable: the test showed nothing");
    assert_eq!(report.counts.timeouts, 0, "an answer took longer than Digital River waits");
    assert!(report.latency_max < ANSWER_MAX, "an acknowledgement took {:?}", report.latency_max);
    world.settle_and_check(&report).await.unwrap();
    world.stop().await.unwrap();
}

/// How long consumers and relay may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// An event whose size compression hardly changes.
fn large(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let filling = (0..bytes).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'a' + u8::try_from(state >> 24).unwrap() % 26)
    });
    let filling: String = filling.collect();
    let event = format!(
        r#"{{"id":"large","type":"order.accepted","liveMode":false,"createdTime":"2026-01-01T00:00:00Z","data":{{"object":{{"id":7,"n":"{filling}"}}}}}}"#
    );
    event.into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_authenticated_requests_are_acknowledged_and_readable_by_their_consumers() {
    if !kafka_for_test("unusual_authenticated_requests_are_acknowledged_and_readable_by_their_consumers") {
        return;
    }
    let world = World::start(31, 1, 10).await.unwrap();
    let target = Target {
        address: world.local.config.ingest.listen,
        path: "/webhooks/digital-river".to_owned(),
        secret: "sandbox-signing-secret".to_owned(),
        bodies: [bytes::Bytes::from_static(b"{}")].into(),
        connections: 1,
    };
    let good = |id: &str| {
        let event = format!(
            r#"{{"id":"{id}","type":"order.accepted","liveMode":false,"createdTime":"2026-01-01T00:00:00Z","data":{{"object":{{"id":"{id}","updatedTime":"2026-01-01T00:00:00Z","currency":"EUR"}}}}}}"#
        );
        event.into_bytes()
    };
    // The largest body: the filling pads it to 4 MiB.
    let largest = large((4 << 20) - (large(0).len()));
    for (headers, body) in [
        ("Content-Type: text/plain\r\n", good("plain")),
        ("Content-Encoding: none\r\n", good("encoded")),
        ("Content-Type: application/json\r\n", b"no event".to_vec()),
        ("Content-Encoding: gzip\r\n", b"\x1f\x8b\x08\x00\xff\xfe".to_vec()),
        ("", Vec::new()),
        ("Content-Type: application/json\r\n", largest),
    ] {
        assert_eq!(target.post(headers, &body).await.unwrap(), 202, "{headers} {} bytes", body.len());
    }
    let mut connection = world.local.config.postgres.connect().await.unwrap();
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = outcomes(&mut connection).await.unwrap();
        let published: i64 = sqlx::query_scalar("SELECT count(*) FROM dead_letters WHERE published_at IS NOT NULL")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        let (applied, dead) = (found.get("applied").copied(), found.get("dead").copied());
        if (applied, dead, published) == (Some(2), Some(4), 4) {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "{found:?}, {published} dead letters published");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let longest: i32 =
        sqlx::query_scalar("SELECT max(length(payload)) FROM dead_letters").fetch_one(&mut connection).await.unwrap();
    assert_eq!(longest, 4 << 20);
    drop(connection);
    world.stop().await.unwrap();
}
