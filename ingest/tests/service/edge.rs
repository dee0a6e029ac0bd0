//! Slow, silent and too many connections; HTTP/2; keep-alive.

use std::time::Duration;

use riverlock_ingest::config::LimitsConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, timeout},
};

use crate::harness::{
    Answer, PATH, PATIENCE, Service, event, limits, process_metric, read_answer, request, service, sign, start,
    wait_until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_dawdle_before_their_request_are_closed() {
    let limits = LimitsConfig { header_read_timeout: Duration::from_millis(200), ..limits() };
    let service = start(limits, |_| {}).await;
    for beginning in [
        &b""[..],
        b"P",
        b"POST /webhooks/digital-river HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"PRI * HTTP/2.0\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = service.connect().await;
        stream.write_all(beginning).await.unwrap();
        let mut rest = Vec::new();
        // A reset is as good an end.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the connection is closed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_dawdles_is_answered_408() {
    let limits = LimitsConfig { body_read_timeout: Duration::from_millis(200), ..limits() };
    let service = start(limits, |_| {}).await;
    service.ready().await;
    let bytes = request(PATH, "", event("e", "order.accepted", "o").as_bytes());
    let mut stream = service.connect().await;
    stream.write_all(&bytes[..bytes.len() - 1]).await.unwrap();
    let answer = read_answer(&mut stream).await;
    assert_eq!((answer.status, answer.code()), (408, "body_timeout"), "{answer:?}");
    assert!((service.requests("body_timeout") - 1.0).abs() < f64::EPSILON);
}

/// Sends the beginning of a request byte by byte for so long, then all the rest.
async fn dribble(service: &Service, bytes: &[u8], lasting: Duration) -> Answer {
    let mut stream = service.connect().await;
    // Longer than the answer may take: a connection that says nothing owes nothing.
    sleep(Duration::from_millis(300)).await;
    let started = Instant::now();
    let mut sent = 0;
    while started.elapsed() < lasting {
        stream.write_all(&bytes[sent..=sent]).await.unwrap();
        sent += 1;
        sleep(Duration::from_millis(20)).await;
    }
    stream.write_all(&bytes[sent..]).await.unwrap();
    read_answer(&mut stream).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_is_due_from_the_first_byte_of_the_request_however_slowly_its_head_comes() {
    let limits = LimitsConfig {
        answer_deadline: Duration::from_millis(1_200),
        body_read_timeout: Duration::from_millis(1_200),
        ..limits()
    };
    let service = start(limits, |_| {}).await;
    service.ready().await;
    // Kafka takes longer than the head leaves, and not longer than the deadline.
    service.cluster.broker_round_trip_time(-1, Duration::from_millis(900)).unwrap();
    let body = event("e", "order.accepted", "o");
    let bytes = request(PATH, "", body.as_bytes());
    let answer = dribble(&service, &bytes, Duration::from_millis(700)).await;
    assert_eq!((answer.status, answer.code()), (503, "not_confirmed"), "{answer:?}");
    wait_until("it was stored late", || service.metric("riverlock_ingest_late_acknowledgements_total", "") >= 1.0)
        .await;

    // The next request of a connection has a deadline of its own, however long the connection was silent.
    service.cluster.broker_round_trip_time(-1, Duration::from_millis(1)).unwrap();
    let mut stream = service.connect().await;
    let kept = String::from_utf8(bytes.clone()).unwrap().replace("Connection: close\r\n", "");
    for _ in 0..2 {
        stream.write_all(kept.as_bytes()).await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 202");
        // The rest of the answer is read before the next request.
        sleep(Duration::from_millis(1_300)).await;
        let mut rest = [0; 4_096];
        assert!(stream.read(&mut rest).await.unwrap() > 0);
    }

    let before = service.requests("head_timeout");
    let answer = dribble(&service, &bytes, Duration::from_millis(1_250)).await;
    assert_eq!((answer.status, answer.code()), (408, "head_timeout"), "{answer:?}");
    assert!((service.requests("head_timeout") - before - 1.0).abs() < f64::EPSILON);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_kept_busy_ends_with_its_age_and_between_two_requests() {
    let limits = LimitsConfig {
        header_read_timeout: Duration::from_millis(500),
        connection_age_max: Duration::from_secs(1),
        ..limits()
    };
    let service = start(limits, |_| {}).await;
    service.ready().await;
    let bytes = request(PATH, "", event("e", "order.accepted", "o").as_bytes());
    let kept = String::from_utf8(bytes).unwrap().replace("Connection: close\r\n", "");
    let mut stream = service.connect().await;
    let (started, mut answers) = (Instant::now(), 0);
    loop {
        assert!(started.elapsed() < PATIENCE, "the connection is kept for ever");
        // A connection that ends while nothing is asked ends without an answer, never within one.
        if stream.write_all(kept.as_bytes()).await.is_err() {
            break;
        }
        let mut answer = [0; 4_096];
        match stream.read(&mut answer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => assert!(answer[..count].starts_with(b"HTTP/1.1 202"), "a whole answer"),
        }
        answers += 1;
    }
    assert!(answers > 0 && started.elapsed() >= Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_too_many_evicts_one_that_proved_nothing() {
    let service = start(LimitsConfig { connections_max: 2, ..limits() }, |_| {}).await;
    service.ready().await;
    let bytes = request(PATH, "", event("e", "order.accepted", "o").as_bytes());
    let kept = String::from_utf8(bytes.clone()).unwrap().replace("Connection: close\r\n", "");
    let mut proven = service.connect().await;
    proven.write_all(kept.as_bytes()).await.unwrap();
    let mut answer = [0; 4_096];
    let count = proven.read(&mut answer).await.unwrap();
    assert!(answer[..count].starts_with(b"HTTP/1.1 202"));

    let mut stranger = service.connect().await;
    stranger.write_all(&bytes[..10]).await.unwrap();
    for _ in 0..3 {
        let mut newcomer = service.connect().await;
        newcomer.write_all(&bytes).await.unwrap();
        assert_eq!(read_answer(&mut newcomer).await.status, 202);
    }
    let mut nothing = Vec::new();
    let _ = timeout(PATIENCE, stranger.read_to_end(&mut nothing)).await.expect("the connection is closed");
    assert!(nothing.is_empty());
    proven.write_all(&bytes).await.unwrap();
    assert_eq!(read_answer(&mut proven).await.status, 202, "it is never closed for others");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_kept_longer_than_a_head_may_take_and_then_closed() {
    let limits = LimitsConfig {
        header_read_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(1_500),
        ..limits()
    };
    let service = start(limits, |_| {}).await;
    service.ready().await;
    let bytes = request(PATH, "", event("e", "order.accepted", "o").as_bytes());
    let kept = String::from_utf8(bytes.clone()).unwrap().replace("Connection: close\r\n", "");
    let mut stream = service.connect().await;
    for _ in 0..2 {
        stream.write_all(kept.as_bytes()).await.unwrap();
        let mut answer = [0; 4_096];
        let count = stream.read(&mut answer).await.unwrap();
        assert!(answer[..count].starts_with(b"HTTP/1.1 202"));
        sleep(Duration::from_millis(800)).await;
    }
    let before = Instant::now();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the connection is closed");
    assert!(rest.is_empty() && before.elapsed() > Duration::from_millis(400), "{:?}", before.elapsed());

    // A head that begins and does not end is not idle.
    let mut stream = service.connect().await;
    stream.write_all(kept.as_bytes()).await.unwrap();
    let mut answer = [0; 4_096];
    assert!(stream.read(&mut answer).await.unwrap() > 0);
    sleep(Duration::from_millis(100)).await;
    stream.write_all(&bytes[..10]).await.unwrap();
    let begun = Instant::now();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the connection is closed");
    assert!(rest.is_empty() && begun.elapsed() < Duration::from_millis(1_200), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_of_http_2_is_closed_as_well() {
    let limits = LimitsConfig { idle_timeout: Duration::from_millis(300), ..limits() };
    let service = start(limits, |_| {}).await;
    service.ready().await;
    let closed = || process_metric("riverlock_ingest_connections_closed_total{reason=\"idle\"}");
    let before = closed();
    let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    let body = event("e", "order.accepted", "o");
    let request = client.post(format!("http://{}{PATH}", service.address));
    let answer = request.header("DigitalRiver-Signature", sign(body.as_bytes())).body(body).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 202);
    wait_until("it is closed", || closed() > before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stray_line_feed_after_a_body_does_not_start_the_clock_of_the_next_request() {
    let limits = LimitsConfig {
        answer_deadline: Duration::from_millis(500),
        body_read_timeout: Duration::from_millis(500),
        ..limits()
    };
    let service = start(limits, |_| {}).await;
    service.ready().await;
    let bytes = request(PATH, "", event("e", "order.accepted", "o").as_bytes());
    let kept = String::from_utf8(bytes.clone()).unwrap().replace("Connection: close\r\n", "");
    let mut stream = service.connect().await;
    stream.write_all(kept.as_bytes()).await.unwrap();
    let mut answer = [0; 4_096];
    assert!(stream.read(&mut answer).await.unwrap() > 0);
    stream.write_all(b"\r\n").await.unwrap();
    sleep(Duration::from_millis(800)).await;
    stream.write_all(&bytes).await.unwrap();
    let answer = read_answer(&mut stream).await;
    assert_eq!(answer.status, 202, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_accepted_for_a_while_after_readyz_says_that_it_ends() {
    let service = start(LimitsConfig { shutdown_delay: Duration::from_secs(2), ..limits() }, |_| {}).await;
    service.ready().await;
    let ended = Instant::now();
    service.context.shutdown.stop();
    wait_until("it says so", || !service.context.health.not_ready().is_empty()).await;
    assert_eq!(service.context.health.not_ready()[0].reason, "ending");
    let answer = service.post(&event("late", "order.accepted", "o")).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert!(service.stop().await);
    assert!(ended.elapsed() >= Duration::from_secs(2));
    assert!(tokio::net::TcpStream::connect(service.address).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_in_chunks_and_a_sender_that_closes_its_half_are_served() {
    let service = service().await;
    let body = event("e", "order.accepted", "o");
    let (head, tail) = body.split_at(20);
    let mut stream = service.connect().await;
    let request = format!(
        "POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nDigitalRiver-Signature: {}\r\n\r\n{:x}\r\n{head}\r\n{:x}\r\n{tail}\r\n0\r\n\r\n",
        sign(body.as_bytes()),
        head.len(),
        tail.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = read_answer(&mut stream).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(rdkafka::Message::payload(&service.record(answer.position())), Some(body.as_bytes()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_keep_alive_and_http_2_are_served_on_one_socket() {
    let service = service().await;
    let url = format!("http://{}{PATH}", service.address);
    let body = event("e", "order.accepted", "o");
    for client in [reqwest::Client::builder(), reqwest::Client::builder().http2_prior_knowledge()] {
        let client = client.no_proxy().build().unwrap();
        for _ in 0..3 {
            let request = client.post(&url).header("DigitalRiver-Signature", sign(body.as_bytes()));
            let answer = request.body(body.clone()).send().await.unwrap();
            assert_eq!(answer.status().as_u16(), 202);
        }
    }
    assert!(service.stop().await, "idle connections do not hold up the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_waits_for_leave_is_told_413_without_sending() {
    let service = service().await;
    let mut stream = service.connect().await;
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_answer(&mut stream).await;
    assert_eq!((answer.status, answer.code()), (413, "body_too_large"), "{answer:?}");
}
