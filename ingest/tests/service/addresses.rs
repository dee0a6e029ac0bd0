//! From where requests are taken.

use crate::harness::{Answer, PATH, Service, configured, event, request};

const SECRETS: &str = "secrets = [{ id = 'first', secret = 'whsec_0123456789abcdef' }]\n";

async fn post(service: &Service, path: &str, forwarded: &str) -> Answer {
    let headers = if forwarded.is_empty() { String::new() } else { format!("X-Forwarded-For: {forwarded}\r\n") };
    service.send(&request(path, &headers, event("e", "order.accepted", "o").as_bytes())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_allow_list_only_its_addresses_are_served_as_far_as_the_trusted_proxy_vouches() {
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
async fn without_a_trusted_proxy_a_forwarded_address_means_nothing() {
    let text = format!("allow = ['digital-river']\n[[endpoints]]\nname = 'NAME'\npath = '{PATH}'\n{SECRETS}");
    let service = configured(&text, &[]).await;
    assert_eq!(post(&service, PATH, "54.204.214.106").await.status, 403);
}
