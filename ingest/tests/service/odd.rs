//! Authenticated requests with oddities: they are stored, because rejected ones would be lost after 72 hours.

use rdkafka::Message;

use crate::harness::{Answer, PATH, Service, configured, event, header, request, service, sign, unsigned};

const OTHER: &str = "riverlock.raw.other";
const ORDERS: &str = "riverlock.raw.orders";

/// Sends a signed body with `headers` instead of `Content-Type: application/json`.
async fn post(service: &Service, headers: &str, body: &[u8]) -> Answer {
    let bytes = request(PATH, "", body);
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let head = head.replace("Content-Type: application/json\r\n", headers);
    service.send(&[head.as_bytes(), body].concat()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_any_media_type_and_encoding_is_stored_in_the_topic_of_its_type() {
    let service = service().await;
    let body = event("e1", "order.accepted", "o1");
    for (headers, oddities, kept) in [
        ("Content-Type: text/plain\r\n", "media_type", [Some("text/plain"), None]),
        ("Content-Type: application/octet-stream\r\n", "media_type", [Some("application/octet-stream"), None]),
        (
            "Content-Type: application/json, application/json\r\n",
            "media_type",
            [Some("application/json, application/json"), None],
        ),
        (
            "Content-Type: application/json\r\nContent-Type: application/json\r\n",
            "media_type",
            [Some("application/json"), None],
        ),
        ("Content-Type: json\r\n", "media_type", [Some("json"), None]),
        ("Content-Encoding: none\r\n", "content_encoding", [None, Some("none")]),
        ("Content-Encoding: utf-8\r\n", "content_encoding", [None, Some("utf-8")]),
        ("Content-Encoding: aws-chunked\r\n", "content_encoding", [None, Some("aws-chunked")]),
        (
            "Content-Type: text/plain\r\nContent-Encoding: gzip\r\n",
            "media_type,content_encoding",
            [Some("text/plain"), Some("gzip")],
        ),
    ] {
        let answer = post(&service, headers, body.as_bytes()).await;
        assert_eq!((answer.status, answer.position().0), (202, ORDERS), "{headers} {answer:?}");
        assert_eq!(answer.body["eventId"], "e1");
        let record = service.record(answer.position());
        assert_eq!((record.payload(), record.key()), (Some(body.as_bytes()), Some(&b"o1"[..])));
        assert_eq!(header(&record, "oddities"), Some(oddities), "{headers}");
        assert_eq!([header(&record, "content-type"), header(&record, "content-encoding")], kept, "{headers}");
    }
    for plain in ["", "Content-Encoding: identity\r\n", "Content-Encoding: \r\n"] {
        let answer = post(&service, plain, body.as_bytes()).await;
        let record = service.record(answer.position());
        assert_eq!((answer.status, header(&record, "oddities")), (202, None), "{plain}");
    }
    assert!(
        (service.metric("riverlock_ingest_odd_requests_total", "oddity=\"media_type\"") - 6.0).abs() < f64::EPSILON
    );
    let encoded = service.metric("riverlock_ingest_odd_requests_total", "oddity=\"content_encoding\"");
    assert!((encoded - 4.0).abs() < f64::EPSILON, "{encoded}");
    assert!((service.requests("accepted") - 12.0).abs() < f64::EPSILON);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_body_that_is_not_an_event_is_stored_unchanged_with_its_hash_as_id() {
    let service = service().await;
    for body in
        [&b"id=e&type=t"[..], b"", br#"{"type":"t"}"#, b"[]", b"\x1f\x8b\x08\x00 compressed", b"{\"a\n\":1,\"a\n\":2}"]
    {
        let answer = post(&service, "Content-Type: application/json\r\n", body).await;
        assert_eq!((answer.status, answer.position().0), (202, OTHER), "{answer:?}");
        let id = answer.body["eventId"].as_str().unwrap().to_owned();
        assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
        let record = service.record(answer.position());
        // Kafka does not distinguish an empty payload from a missing one.
        assert_eq!(record.payload().unwrap_or_default(), body);
        assert_eq!(record.key(), Some(id.as_bytes()));
        assert_eq!(header(&record, "oddities"), Some("not_an_event"));
        assert_eq!((header(&record, "event-id"), header(&record, "secret-id")), (None, Some("first")));
        assert!(header(&record, "signature").is_some(), "it can be verified again");
    }
    assert!(
        (service.metric("riverlock_ingest_odd_requests_total", "oddity=\"not_an_event\"") - 6.0).abs() < f64::EPSILON
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_larger_than_consumers_process_is_stored_up_to_4_mib() {
    let service = service().await;
    let sized = |bytes: usize| {
        let event = event("big", "order.accepted", "o");
        let filling = "x".repeat(bytes - event.len() - r#","n":"""#.len());
        event.replace(",\"liveMode\"", &format!(",\"n\":\"{filling}\",\"liveMode\""))
    };
    for (bytes, oddities) in [(1 << 20, None), ((1 << 20) + 1, Some("size")), (4 << 20, Some("size"))] {
        let body = sized(bytes);
        assert_eq!(body.len(), bytes);
        let answer = service.post(&body).await;
        assert_eq!((answer.status, answer.position().0), (202, ORDERS), "{answer:?}");
        let record = service.record(answer.position());
        assert!(record.payload() == Some(body.as_bytes()), "{bytes} bytes are read back");
        assert_eq!(header(&record, "oddities"), oddities);
    }
    let answer = service.post(&sized((4 << 20) + 1)).await;
    assert_eq!((answer.status, answer.code()), (413, "body_too_large"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_not_an_event_is_stored_only_if_authenticated() {
    let text = format!(
        "[[endpoints]]\nname = 'NAME'\npath = '{PATH}'\nbasic = {{ username = 'river', password = 'a password: long' }}\n[[endpoints]]\nname = 'NAME-open'\npath = '/open'\ninsecure = true\n"
    );
    let service = configured(&text, &[]).await;
    let right = "Authorization: Basic cml2ZXI6YSBwYXNzd29yZDogbG9uZw==\r\n";
    let answer = service.send(&unsigned(PATH, right, b"no event")).await;
    assert_eq!((answer.status, answer.position().0), (202, OTHER), "{answer:?}");
    assert_eq!(service.send(&unsigned(PATH, "", b"no event")).await.status, 401);
    let answer = service.send(&unsigned("/open", right, b"no event")).await;
    assert_eq!((answer.status, answer.code()), (400, "invalid_json"), "{answer:?}");
    let body = event("e", "order.accepted", "o");
    let plain =
        String::from_utf8(unsigned("/open", "", body.as_bytes())).unwrap().replace("application/json", "text/plain");
    assert_eq!(service.send(plain.as_bytes()).await.status, 202);
    // An endpoint that requires no signature ignores it.
    let signed = format!("DigitalRiver-Signature: {}\r\n", sign(b"no event"));
    assert_eq!(service.send(&unsigned("/open", &signed, b"no event")).await.status, 400);
}
