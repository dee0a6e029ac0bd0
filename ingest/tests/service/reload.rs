//! Reloading of the configuration at run time.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    harness::{
        LOG, PATH, PATIENCE, SECRET, SECTIONS_AT_START, Service, configured, event, process_metric, read_answer,
        request, send, wait_until,
    },
    load::{self, RELOADING, with_secrets},
};

const NEW: &str = "whsec_fedcba9876543210";

async fn post(address: SocketAddr, id: &str, secret: &str) -> u16 {
    load::post(address, id, &[secret]).await.1.status
}

/// Sends events signed with a secret until one is answered with this status.
async fn until_answered(address: SocketAddr, secret: &str, status: u16) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while post(address, "again", secret).await != status {
        assert!(tokio::time::Instant::now() < until, "no event is answered with {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_configuration_is_rejected_and_the_previous_one_stays_in_use() {
    let _alone = RELOADING.lock().await;
    let service = configured(&with_secrets(&["old"]), &[("old", SECRET)]).await;
    let rejected = || process_metric("riverlock_ingest_reloads_total{outcome=\"refused\"}");
    for bad in [
        "endpoints = []",
        "[[endpoints",
        "nonsense = 1",
        "[[endpoints]]\nname = 'NAME'\npath = '/other'\n",
        "[[endpoints]]\nname = 'NAME'\npath = '/x'\nsecrets = [{ id = 'a', secret = 'file:FOLDER/nowhere' }]\n",
    ] {
        let before = rejected();
        service.configure(bad);
        wait_until("it is rejected", || rejected() > before).await;
        assert_eq!(post(service.address, "stays", SECRET).await, 202, "{bad}");
    }
    assert!((process_metric("riverlock_ingest_configuration_rejected") - 1.0).abs() < f64::EPSILON);

    // Only the content of the secret's file changes, as when Kubernetes moves its symbolic link.
    service.configure(&with_secrets(&["old"]));
    std::fs::write(service.folder.path().join("old"), format!("{NEW}\n")).unwrap();
    until_answered(service.address, NEW, 202).await;
    assert_eq!(post(service.address, "changed", SECRET).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reloads_the_configuration_at_once() {
    let _alone = RELOADING.lock().await;
    let text = with_secrets(&["old"]);
    let service = configured(&text, &[("old", SECRET)]).await;
    let unchanged = || process_metric("riverlock_ingest_reloads_total{outcome=\"unchanged\"}");
    let before = unchanged();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
    wait_until("it is read", || unchanged() > before).await;
    assert_eq!(post(service.address, "after", SECRET).await, 202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_needs_a_restart_is_compared_with_the_running_configuration() {
    let _alone = RELOADING.lock().await;
    let text = with_secrets(&["old"]);
    let service = configured(&text, &[("old", SECRET)]).await;
    let applied = || process_metric("riverlock_ingest_reloads_total{outcome=\"applied\"}");
    for limits in ["[limits]\nbody_bytes_max = 10\n", "[limits]\nbody_bytes_max = 20\n", ""] {
        let before = applied();
        service.configure(&format!("{limits}{text}"));
        wait_until("it is applied", || applied() > before).await;
        assert_eq!(post(service.address, "limits", SECRET).await, 202, "the limits at start apply");
    }
}

fn applied() -> f64 {
    process_metric("riverlock_ingest_reloads_total{outcome=\"applied\"}")
}

/// Changes the configuration and waits until it is in use.
async fn change(service: &Service, text: &str) {
    let before = applied();
    service.configure(text);
    wait_until("it is in use", || applied() > before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_sections_that_need_a_restart_are_logged_until_they_are_reverted() {
    let _alone = RELOADING.lock().await;
    let service = configured(&with_secrets(&["old"]), &[("old", SECRET)]).await;
    let mut expected = Vec::new();
    for name in SECTIONS_AT_START {
        let before = applied();
        std::fs::write(service.folder.path().join(name), "changed = true").unwrap();
        wait_until("it is noticed", || applied() > before).await;
        expected.push(name);
        // In the order of their names, as in the log.
        expected.sort_unstable();
        let message = format!("except for changes that need a restart: {}", expected.join(", "));
        let lines = LOG.lines(&format!("{message} endpoints="));
        assert!(lines.iter().any(|line| line.contains("WARN")), "{message}: {lines:?}");
        assert_eq!(post(service.address, name, SECRET).await, 202);
    }
    for name in SECTIONS_AT_START {
        let before = applied();
        std::fs::remove_file(service.folder.path().join(name)).unwrap();
        wait_until("it is noticed", || applied() > before).await;
    }
    let last = LOG.lines("the new configuration of ingest is in use").pop();
    assert!(last.as_ref().is_some_and(|line| line.contains("INFO")), "{last:?}");
}

/// Sends the head of a request and waits until its body is read.
async fn begin(service: &Service, request: &[u8]) -> TcpStream {
    let mut stream = service.connect().await;
    let head = String::from_utf8(request.to_vec()).unwrap();
    let (head, _) = head.split_once("\r\n\r\n").unwrap();
    stream.write_all(format!("{head}\r\nExpect: 100-continue\r\n\r\n").as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert!(interim.starts_with(b"HTTP/1.1 100 "), "{}", String::from_utf8_lossy(&interim));
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_handled_with_the_configuration_that_it_started_with() {
    const LIMITS: &str = "limits = { answer_deadline = '2900ms', body_read_timeout = '2900ms' }\n";
    let _alone = RELOADING.lock().await;
    let endpoint = |name: &str, path: &str, secret: &str| {
        format!(
            "[[endpoints]]\nname = '{name}'\npath = '{path}'\nsecrets = [{{ id = 'first', secret = '{secret}' }}]\n"
        )
    };
    let oauth = "oauth = [{ client_id = 'NAME-dr', client_secret = 'client secret, long' }]\n";
    let keys = "oauth = { token_keys = ['0123456789abcdef0123456789abcdef'] }\n";
    let first = format!(
        "{LIMITS}{keys}{}{}{oauth}",
        endpoint("NAME", PATH, SECRET),
        endpoint("NAME-tokens", "/with-token", SECRET)
    );
    let service = configured(&first, &[]).await;
    let body = event("e", "order.accepted", "o");
    let webhook = request(PATH, "", body.as_bytes());
    let form =
        format!("grant_type=client_credentials&client_id={}-dr&client_secret=client+secret%2C+long", service.endpoint);
    let token = format!(
        "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    let (mut slow_webhook, mut slow_token) = (begin(&service, &webhook).await, begin(&service, token.as_bytes()).await);
    change(&service, &format!("{LIMITS}{}", endpoint("NAME-other", "/elsewhere", NEW))).await;
    slow_webhook.write_all(body.as_bytes()).await.unwrap();
    slow_token.write_all(form.as_bytes()).await.unwrap();
    let answer = read_answer(&mut slow_webhook).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let answer = read_answer(&mut slow_token).await;
    assert_eq!((answer.status, answer.body["token_type"].as_str()), (200, Some("Bearer")), "{answer:?}");
    for late in [webhook, token.into_bytes()] {
        let answer = send(service.address, &late).await;
        assert_eq!((answer.status, answer.code()), (404, "unknown_path"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_and_allowed_addresses_of_two_configurations_are_never_mixed() {
    const CHANGES: usize = 10;
    const EVENTS: f64 = 50.0;
    let _alone = RELOADING.lock().await;
    // Each configuration alone accepts the events: by the forwarded address, or by the peer's. A mixture rejects them.
    let by_client = format!("trusted_proxies = ['127.0.0.1']\nallow = ['192.0.2.0/24']\n{}", with_secrets(&["old"]));
    let by_peer = format!("allow = ['127.0.0.1']\n{}", with_secrets(&["old"]));
    let service = configured(&by_peer, &[("old", SECRET)]).await;
    let changes = async {
        let mut count = 0;
        while count < CHANGES || service.requests("accepted") < EVENTS {
            change(&service, if count % 2 == 0 { &by_client } else { &by_peer }).await;
            count += 1;
        }
    };
    let events = async {
        for i in 0.. {
            let body = event(&format!("e-{i}"), "order.accepted", "o");
            let answer = service.send(&request(PATH, "X-Forwarded-For: 192.0.2.1\r\n", body.as_bytes())).await;
            assert_eq!(answer.status, 202, "{answer:?}");
        }
    };
    tokio::select! {
        () = changes => {}
        () = events => unreachable!("it never ends"),
    }
}
