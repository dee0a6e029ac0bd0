//! Allowed client addresses.

use crate::harness::{Answer, PATH, Service, configured, event, process_metric, request};

const SECRETS: &str = "secrets = [{ id = 'first', secret = 'whsec_0123456789abcdef' }]\n";

async fn post(service: &Service, path: &str, forwarded: &str) -> Answer {
    let headers = if forwarded.is_empty() { String::new() } else { format!("X-Forwarded-For: {forwarded}\r\n") };
    service.send(&request(path, &headers, event("e", "order.accepted", "o").as_bytes())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allow_list_applies_to_the_address_that_the_trusted_proxy_added() {
    let text = format!(
        "trusted_proxies = ['127.0.0.1']\nallow = ['digital-river']\n[[endpoints]]\nname = 'NAME'\npath = '{PATH}'\n{SECRETS}[[endpoints]]\nname = 'NAME-b'\npath = '/b'\nallow = ['192.0.2.0/24']\n{SECRETS}[[endpoints]]\nname = 'NAME-c'\npath = '/c'\nallow = []\n{SECRETS}"
    );
    let service = configured(&text, &[]).await;
    for (path, forwarded, status) in [
        (PATH, "54.204.214.106", 202),
        (PATH, "203.0.113.1, 209.87.180.44", 202),
        (PATH, "54.204.214.106, 203.0.113.1", 403),
        (PATH, "192.0.2.9", 403),
        (PATH, "", 403),
        (PATH, "nonsense", 403),
        ("/b", "192.0.2.9", 202),
        ("/b", "54.204.214.106", 403),
        ("/c", "203.0.113.1", 202),
    ] {
        let answer = post(&service, path, forwarded).await;
        assert_eq!(answer.status, status, "{path} {forwarded} {answer:?}");
        if status == 403 {
            assert_eq!((answer.code(), &answer.body["type"]), ("address_not_allowed", &"forbidden".into()));
        }
    }
    assert!((service.requests("address_not_allowed") - 4.0).abs() < f64::EPSILON);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_trusted_proxy_a_forwarded_address_is_ignored() {
    // The connection is accepted only because of the other endpoint.
    let text = format!(
        "allow = ['digital-river']\n[[endpoints]]\nname = 'NAME'\npath = '{PATH}'\n{SECRETS}[[endpoints]]\nname = 'NAME-b'\npath = '/b'\nallow = ['127.0.0.0/8']\n{SECRETS}"
    );
    let service = configured(&text, &[]).await;
    assert_eq!(post(&service, PATH, "54.204.214.106").await.status, 403);
    assert_eq!(post(&service, "/b", "54.204.214.106").await.status, 202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_without_a_forwarded_address_is_rejected_even_if_the_list_contains_it() {
    let text = format!(
        "trusted_proxies = ['127.0.0.1']\nallow = ['digital-river', '127.0.0.0/8']\n[[endpoints]]\nname = 'NAME'\npath = '{PATH}'\n{SECRETS}[[endpoints]]\nname = 'NAME-b'\npath = '/b'\nallow = []\n{SECRETS}"
    );
    let service = configured(&text, &[]).await;
    for (path, forwarded, status) in [
        (PATH, "", 403),
        (PATH, "127.0.0.1", 403),
        (PATH, "127.0.0.2", 202),
        (PATH, "54.204.214.106", 202),
        ("/b", "", 202),
    ] {
        let answer = post(&service, path, forwarded).await;
        assert_eq!(answer.status, status, "{path} {forwarded:?} {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_issued_to_addresses_that_an_endpoint_with_clients_allows() {
    let text = format!(
        "trusted_proxies = ['127.0.0.1']\nallow = ['10.0.0.0/8']\n[oauth]\ntoken_keys = ['0123456789abcdef0123456789abcdef']\n[[endpoints]]\nname = 'NAME'\npath = '{PATH}'\nallow = ['digital-river']\n[[endpoints.oauth]]\nclient_id = 'NAME'\nclient_secret = 'client secret, long'\n[[endpoints]]\nname = 'NAME-b'\npath = '/b'\n{SECRETS}"
    );
    let service = configured(&text, &[]).await;
    let form =
        format!("grant_type=client_credentials&client_id={}&client_secret=client+secret%2C+long", service.endpoint);
    let rejected = || process_metric("riverlock_ingest_token_requests_total{outcome=\"address_not_allowed\"}");
    let before = rejected();
    for (forwarded, status) in [("54.204.214.106", 200), ("10.1.1.1", 403), ("203.0.113.1", 403)] {
        let request = format!(
            "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Forwarded-For: {forwarded}\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        );
        let answer = service.send(request.as_bytes()).await;
        assert_eq!(answer.status, status, "{forwarded} {answer:?}");
    }
    assert!(rejected() >= before + 2.0);
}
