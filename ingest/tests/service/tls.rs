//! TLS on the listener. The certificates are only for these tests.

use std::time::Duration;

use reqwest::tls::TlsInfo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::harness::{PATH, PATIENCE, Service, configured, event, process_metric, sign};

const FIRST: (&str, &str) = (include_str!("tls/first.pem"), include_str!("tls/first.key"));
const SECOND: (&str, &str) = (include_str!("tls/second.pem"), include_str!("tls/second.key"));
const TEXT: &str = "[tls]\ncertificate = 'FOLDER/cert.pem'\nkey = 'FOLDER/key.pem'\n[[endpoints]]\nname = 'NAME'\npath = '/webhooks/digital-river'\nsecrets = [{ id = 'first', secret = 'whsec_0123456789abcdef' }]\n";

/// Posts an event on a new connection. Returns the protocol and the certificate.
async fn post(service: &Service) -> (reqwest::Version, Vec<u8>) {
    let client =
        reqwest::Client::builder().tls_danger_accept_invalid_certs(true).tls_info(true).no_proxy().build().unwrap();
    let body = event("e", "order.accepted", "o");
    let request = client
        .post(format!("https://{}{PATH}", service.address))
        .header("DigitalRiver-Signature", sign(body.as_bytes()));
    let answer = request.body(body).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 202);
    let certificate = answer.extensions().get::<TlsInfo>().unwrap().peer_certificate().unwrap().to_vec();
    (answer.version(), certificate)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_accepted_over_tls_and_a_new_certificate_is_loaded_without_a_restart() {
    let _alone = crate::load::RELOADING.lock().await;
    let service = configured(TEXT, &[("cert.pem", FIRST.0), ("key.pem", FIRST.1)]).await;
    let (version, first) = post(&service).await;
    assert_eq!(version, reqwest::Version::HTTP_2, "negotiated in the handshake");
    // 2126; a service of another test, without TLS, sets 0.
    let expiry = || process_metric("riverlock_ingest_certificate_expiry_timestamp_seconds");
    crate::harness::wait_until("the certificate's expiry is published", || expiry() > 4.9e9).await;

    let write = |name: &str, text: &str| std::fs::write(service.folder.path().join(name), text).unwrap();
    let rejected = || process_metric("riverlock_ingest_reloads_total{outcome=\"refused\"}");
    let before = rejected();
    write("cert.pem", SECOND.0);
    crate::harness::wait_until("a certificate without its key is rejected", || rejected() > before).await;
    assert_eq!(post(&service).await.1, first);
    write("key.pem", SECOND.1);
    let until = tokio::time::Instant::now() + PATIENCE;
    while post(&service).await.1 == first {
        assert!(tokio::time::Instant::now() < until, "the new certificate is not used");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_without_a_tls_handshake_are_closed() {
    let text = format!("[limits]\nheader_read_timeout = '1s'\n{TEXT}");
    let service = configured(&text, &[("cert.pem", FIRST.0), ("key.pem", FIRST.1)]).await;
    let failed = process_metric("riverlock_ingest_tls_handshakes_failed_total");
    for beginning in [&b""[..], b"\x16\x03\x01", b"POST / HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut stream = service.connect().await;
        stream.write_all(beginning).await.unwrap();
        let mut rest = Vec::new();
        // A reset is acceptable as well.
        let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.expect("the connection is closed");
    }
    assert!(process_metric("riverlock_ingest_tls_handshakes_failed_total") >= failed + 3.0);
}
