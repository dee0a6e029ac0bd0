//! Slow, silent and too many connections; HTTP/2; keep-alive.

use std::time::Duration;

use riverlock_ingest::config::LimitsConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::harness::{PATH, PATIENCE, event, read_answer, request, service, sign, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_dawdle_before_their_request_are_closed() {
    let limits = LimitsConfig { header_read_timeout: Duration::from_millis(200), ..LimitsConfig::default() };
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
    let limits = LimitsConfig { body_read_timeout: Duration::from_millis(200), ..LimitsConfig::default() };
    let service = start(limits, |_| {}).await;
    service.ready().await;
    let bytes = request(PATH, "", event("e", "order.accepted", "o").as_bytes());
    let mut stream = service.connect().await;
    stream.write_all(&bytes[..bytes.len() - 1]).await.unwrap();
    let answer = read_answer(&mut stream).await;
    assert_eq!((answer.status, answer.code()), (408, "body_timeout"), "{answer:?}");
    assert!((service.requests("body_timeout") - 1.0).abs() < f64::EPSILON);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_too_many_is_closed_and_the_others_work() {
    let service = start(LimitsConfig { connections_max: 1, ..LimitsConfig::default() }, |_| {}).await;
    service.ready().await;
    let bytes = request(PATH, "", event("e", "order.accepted", "o").as_bytes());
    let mut first = service.connect().await;
    first.write_all(&bytes[..10]).await.unwrap();
    let mut second = service.connect().await;
    let mut nothing = Vec::new();
    let _ = timeout(PATIENCE, second.read_to_end(&mut nothing)).await.expect("the connection is closed");
    assert!(nothing.is_empty());
    first.write_all(&bytes[10..]).await.unwrap();
    assert_eq!(read_answer(&mut first).await.status, 202);
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
