//! The configuration changes while events come in.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use crate::harness::{
    PATH, PATIENCE, SECRET, configured, event, process_metric, send, sign_with, unsigned, wait_until,
};

const NEW: &str = "whsec_fedcba9876543210";

/// Both secrets are in files, as Kubernetes mounts them.
fn with_secrets(ids: &[&str]) -> String {
    ids.iter().fold(format!("[[endpoints]]\nname = 'NAME'\npath = '{PATH}'\n"), |text, id| {
        format!("{text}[[endpoints.secrets]]\nid = '{id}'\nsecret = 'file:FOLDER/{id}'\n")
    })
}

async fn post(address: SocketAddr, id: &str, secrets: &[&str]) -> u16 {
    let body = event(id, "order.accepted", id);
    let signed: Vec<String> = secrets.iter().map(|secret| sign_with(secret, body.as_bytes())).collect();
    let mut header = signed[0].clone();
    for more in &signed[1..] {
        // Both were made in the same second, or the second one counts for nothing.
        header = format!("{header}, {}", more.split_once(", ").unwrap().1);
    }
    let header = format!("DigitalRiver-Signature: {header}\r\n");
    send(address, &unsigned(PATH, &header, body.as_bytes())).await.status
}

/// Sends events signed with a secret until one is answered with this status.
async fn until_answered(address: SocketAddr, secret: &str, status: u16) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while post(address, "again", &[secret]).await != status {
        assert!(tokio::time::Instant::now() < until, "nothing is answered {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_constant_load_a_rotation_refuses_no_event_and_ends_with_the_old_secret_refused() {
    let files = [("old", SECRET), ("new", NEW)];
    let service = configured(&with_secrets(&["old"]), &files).await;
    // What Digital River signs with at the moment.
    let signing = Arc::new(Mutex::new(vec![SECRET]));
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let load: Vec<_> = (0..4)
        .map(|sender| {
            let (address, signing) = (service.address, Arc::clone(&signing));
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            #[expect(clippy::disallowed_methods, reason = "a test's own sender")]
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let secrets = signing.lock().unwrap().clone();
                    let number = sent.fetch_add(1, Ordering::Relaxed);
                    let status = post(address, &format!("{sender}-{number}"), &secrets).await;
                    assert_eq!(status, 202, "signed with {secrets:?}");
                }
            })
        })
        .collect();
    let more = async |count: u32| {
        let until = sent.load(Ordering::Relaxed) + count;
        wait_until("more events are sent", || sent.load(Ordering::Relaxed) >= until).await;
    };
    let last_match =
        |id: &str| service.try_metric("ingest_secret_last_match_timestamp_seconds", &format!("secret=\"{id}\""));

    more(50).await;
    service.configure(&with_secrets(&["old", "new"]));
    wait_until("the new secret is known", || last_match("new").is_some()).await;
    assert!(last_match("old").unwrap() > 0.0, "a secret that stays keeps its time");
    *signing.lock().unwrap() = vec![SECRET, NEW];
    more(50).await;
    *signing.lock().unwrap() = vec![NEW];
    more(50).await;
    service.configure(&with_secrets(&["new"]));
    more(50).await;
    until_answered(service.address, SECRET, 401).await;
    more(50).await;
    stop.store(true, Ordering::Relaxed);
    for sender in load {
        sender.await.expect("no event was refused");
    }
    assert_eq!(post(service.address, "last", &[SECRET]).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_configuration_is_refused_and_the_one_before_it_stays() {
    let service = configured(&with_secrets(&["old"]), &[("old", SECRET)]).await;
    let refused = || process_metric("ingest_reloads_total{outcome=\"refused\"}");
    for bad in [
        "endpoints = []",
        "[[endpoints",
        "nonsense = 1",
        "[[endpoints]]\nname = 'NAME'\npath = '/other'\n",
        "[[endpoints]]\nname = 'NAME'\npath = '/x'\nsecrets = [{ id = 'a', secret = 'file:FOLDER/nowhere' }]\n",
    ] {
        let before = refused();
        service.configure(bad);
        wait_until("it is refused", || refused() > before).await;
        assert_eq!(post(service.address, "stays", &[SECRET]).await, 202, "{bad}");
    }
    assert!((process_metric("ingest_configuration_refused") - 1.0).abs() < f64::EPSILON);

    // Only the content of the secret's file changes, as when Kubernetes moves its symbolic link.
    service.configure(&with_secrets(&["old"]));
    std::fs::write(service.folder.path().join("old"), format!("{NEW}\n")).unwrap();
    until_answered(service.address, NEW, 202).await;
    assert_eq!(post(service.address, "changed", &[SECRET]).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reads_the_configuration_at_once() {
    let text = with_secrets(&["old"]);
    let service = configured(&text, &[("old", SECRET)]).await;
    let unchanged = || process_metric("ingest_reloads_total{outcome=\"unchanged\"}");
    let before = unchanged();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
    wait_until("it is read", || unchanged() > before).await;
    assert_eq!(post(service.address, "after", &[SECRET]).await, 202);
}
