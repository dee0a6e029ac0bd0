//! The configuration changes while events come in.

use std::net::SocketAddr;

use crate::{
    harness::{PATIENCE, SECRET, configured, process_metric, wait_until},
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
        assert!(tokio::time::Instant::now() < until, "nothing is answered {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_configuration_is_refused_and_the_one_before_it_stays() {
    let _alone = RELOADING.lock().await;
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
        assert_eq!(post(service.address, "stays", SECRET).await, 202, "{bad}");
    }
    assert!((process_metric("ingest_configuration_refused") - 1.0).abs() < f64::EPSILON);

    // Only the content of the secret's file changes, as when Kubernetes moves its symbolic link.
    service.configure(&with_secrets(&["old"]));
    std::fs::write(service.folder.path().join("old"), format!("{NEW}\n")).unwrap();
    until_answered(service.address, NEW, 202).await;
    assert_eq!(post(service.address, "changed", SECRET).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reads_the_configuration_at_once() {
    let _alone = RELOADING.lock().await;
    let text = with_secrets(&["old"]);
    let service = configured(&text, &[("old", SECRET)]).await;
    let unchanged = || process_metric("ingest_reloads_total{outcome=\"unchanged\"}");
    let before = unchanged();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
    wait_until("it is read", || unchanged() > before).await;
    assert_eq!(post(service.address, "after", SECRET).await, 202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_takes_a_restart_is_compared_with_what_runs() {
    let _alone = RELOADING.lock().await;
    let text = with_secrets(&["old"]);
    let service = configured(&text, &[("old", SECRET)]).await;
    let applied = || process_metric("ingest_reloads_total{outcome=\"applied\"}");
    for limits in ["[limits]\nbody_bytes_max = 10\n", "[limits]\nbody_bytes_max = 20\n", ""] {
        let before = applied();
        service.configure(&format!("{limits}{text}"));
        wait_until("it is taken", || applied() > before).await;
        assert_eq!(post(service.address, "limits", SECRET).await, 202, "the limits at start hold");
    }
}
