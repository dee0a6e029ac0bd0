//! Accepted and rejected requests, and the resulting records in Kafka.

use rdkafka::Message;

use crate::harness::{PATH, SECRET, event, header, request, service, sign};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_202_names_the_record_with_the_exact_bytes_and_the_delivery_headers() {
    let service = service().await;
    let body = event("e-1", "order.accepted", "o-1");
    let signature = sign(body.as_bytes());
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let answer = service
        .send(
            format!("POST {PATH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json; charset=utf-8\r\ndigitalriver-signature:  {signature}\r\ntraceparent: {trace}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
                .as_bytes(),
        )
        .await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.body["eventId"], "e-1");
    assert_eq!(answer.position().0, "riverlock.raw.orders");

    let record = service.record(answer.position());
    assert_eq!(record.payload(), Some(body.as_bytes()));
    assert_eq!(record.key(), Some(&b"o-1"[..]));
    assert_eq!(record.offset(), answer.position().2);
    for (name, value) in [
        ("event-id", "e-1"),
        ("event-type", "order.accepted"),
        ("live-mode", "false"),
        ("endpoint", service.endpoint.as_str()),
        ("signature", signature.as_str()),
        ("secret-id", "first"),
        ("traceparent", trace),
        ("origin", "webhook"),
    ] {
        assert_eq!(header(&record, name), Some(value), "{name}");
    }
    assert!(chrono::DateTime::parse_from_rfc3339(header(&record, "received-at").unwrap()).is_ok());
    assert!(!format!("{record:?}").contains(SECRET));

    assert!((service.requests("accepted") - 1.0).abs() < f64::EPSILON);
    assert!(service.metric("riverlock_ingest_secret_matches_total", "secret=\"first\"") > 0.0);
    assert!(service.metric("riverlock_ingest_secret_last_match_timestamp_seconds", "secret=\"first\"") > 1.7e9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_one_order_are_in_the_same_partition_number_of_every_topic() {
    let service = service().await;
    let invoice = r#"{"id":"e2","type":"order.invoice.created","data":{"object":{"id":"f1","orderId":"o-7"}}}"#;
    let mut partitions = Vec::new();
    for body in [&event("e1", "order.complete", "o-7"), invoice, &event("e3", "subscription.created", "o-7")] {
        partitions.push(service.post(body).await.position().1);
    }
    assert_eq!(partitions, [partitions[0]; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_events_are_stored() {
    let service = service().await;
    let long = "x".repeat(70_000);
    for (body, topic, key) in [
        (r#"{"id":"a","type":"never.heard.of"}"#.to_owned(), "riverlock.raw.other", "a"),
        (r#"{"id":"b","type":"order.accepted","data":[]}"#.to_owned(), "riverlock.raw.orders", "b"),
        (r#"{"id":"c","type":"../x\u0000","data":{"object":{"id":""}}}"#.to_owned(), "riverlock.raw.other", "c"),
        (format!(r#"{{"id":"{long}","type":"{long}"}}"#), "riverlock.raw.other", "sha256:"),
        (event("d", "order.accepted", &long), "riverlock.raw.orders", "sha256:"),
    ] {
        let answer = service.post(&body).await;
        assert_eq!((answer.status, answer.position().0), (202, topic), "{answer:?}");
        let record = service.record(answer.position());
        assert_eq!(record.payload(), Some(body.as_bytes()));
        assert!(std::str::from_utf8(record.key().unwrap()).unwrap().starts_with(key));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejections_name_the_cause_and_store_nothing() {
    let service = service().await;
    let body = event("e1", "order.accepted", "o1");
    let signed = |path: &str| String::from_utf8(request(path, "", body.as_bytes())).unwrap();
    let too_long = "x".repeat(4 * 1024 * 1024 + 1);
    let unsigned = signed(PATH).replace("DigitalRiver-Signature", "X-Other");
    let twice = String::from_utf8(request(PATH, "DigitalRiver-Signature: 1, AAAA\r\n", body.as_bytes())).unwrap();
    let changed = signed(PATH).replace("27.010", "17.010");
    let open = |body: &str| String::from_utf8(request("/open", "", body.as_bytes())).unwrap();
    for (request, status, code, says) in [
        (signed("/elsewhere"), 404, "unknown_path", "path"),
        (signed("//"), 404, "unknown_path", "path"),
        (signed(PATH).replace("POST", "PUT"), 405, "method_not_allowed", "POST"),
        (String::from_utf8(request(PATH, "", too_long.as_bytes())).unwrap(), 413, "body_too_large", "4194304 bytes"),
        (unsigned.clone(), 401, "invalid_signature", "no DigitalRiver-Signature"),
        (unsigned.replace("application/json", "text/plain"), 401, "invalid_signature", "no DigitalRiver-Signature"),
        (twice, 401, "invalid_signature", "more than one"),
        (changed, 401, "invalid_signature", "no signature matches"),
        // The endpoint is insecure, so bodies that are not events are rejected.
        (open("id=e&type=t"), 400, "invalid_json", "not a JSON object"),
        (open(""), 400, "invalid_json", "not a JSON object"),
        (open(r#"{"type":"t"}"#), 400, "missing_parameter", "`id`"),
        (open(r#"{"id":"a","id":"b","type":"t"}"#), 400, "duplicate_parameter", "repeated"),
    ] {
        let answer = service.send(request.as_bytes()).await;
        let message = answer.body["errors"][0]["message"].as_str().unwrap_or_default();
        assert_eq!((answer.status, answer.code()), (status, code), "{answer:?}");
        assert!(message.contains(says), "{message:?} does not contain {says:?}");
        assert!(answer.body["type"].is_string(), "{answer:?}");
        assert!(!answer.head.contains("location:"));
    }
    // The topic's first record is the first accepted event.
    let answer = service.post(&body).await;
    assert_eq!((answer.status, answer.position().2), (202, 0), "{answer:?}");
    assert!((service.requests("unauthenticated") - 4.0).abs() < f64::EPSILON);
    assert!((service.requests("too_large") - 1.0).abs() < f64::EPSILON);
    let open = crate::harness::Service { endpoint: format!("{}-open", service.endpoint), ..service };
    assert!((open.requests("not_an_event") - 4.0).abs() < f64::EPSILON);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_time_includes_discarding_the_body_of_a_rejected_request() {
    let service = service().await;
    let head = format!("PUT {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n");
    let answer = service.send(head.as_bytes()).await;
    assert_eq!((answer.status, answer.code()), (405, "method_not_allowed"), "{answer:?}");
    // It waited for a body that does not arrive.
    let seconds = service.metric("riverlock_ingest_answer_duration_seconds_sum", "");
    assert!(seconds > 0.2, "{seconds} s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_json_media_type_and_form_of_the_path_is_accepted_without_a_redirect() {
    let service = service().await;
    let body = event("e1", "order.accepted", "o1");
    let signed = |path: &str| String::from_utf8(request(path, "", body.as_bytes())).unwrap();
    for request in [
        signed(&format!("{PATH}/")),
        signed(&format!("{PATH}?source=dr")),
        signed(&format!("/{PATH}")),
        signed(PATH).replace(
            "DigitalRiver-Signature",
            &format!("DigitalRiver-Signature: {}\r\nDigitalRiver-Signature", sign(body.as_bytes())),
        ),
        signed("/open"),
        signed("/open/"),
        signed("/open").replace("DigitalRiver-Signature", "X-Other"),
        signed(PATH).replace("Content-Type: application/json\r\n", ""),
        signed(PATH).replace("application/json", "Application/JSON ;charset=UTF-8"),
        signed(PATH).replace("application/json", "application/vnd.dr+json"),
    ] {
        let answer = service.send(request.as_bytes()).await;
        assert_eq!(answer.status, 202, "{request} {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_the_other_mode_is_stored_and_counted() {
    let service = service().await;
    let answer = service.send(&request("/open", "", event("e1", "order.accepted", "o1").as_bytes())).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let record = service.record(answer.position());
    assert_eq!(header(&record, "live-mode"), Some("false"));
    assert_eq!(header(&record, "endpoint"), Some(format!("{}-open", service.endpoint).as_str()));
    assert_eq!(header(&record, "secret-id"), None);
    let open = crate::harness::Service { endpoint: format!("{}-open", service.endpoint), ..service };
    assert!((open.metric("riverlock_ingest_mode_mismatches_total", "") - 1.0).abs() < f64::EPSILON);
    assert!((open.metric("riverlock_ingest_endpoint_insecure", "") - 1.0).abs() < f64::EPSILON);
}
