//! Rate limits, and unusual announcements.

use std::time::{Duration, Instant};

use riverlock_runtime::Context;
use riverlock_schemas::{
    EventId,
    events::file_event::{FileEvent, Purpose},
};

use super::{
    document,
    fetching::{Bench, PATIENCE},
    file,
    queueing::{announce, announced},
    server::Answer,
};
use crate::queue::{missing, view};

const DUE: &str = "SELECT count(*) FROM invoices WHERE state = 'due'";

#[tokio::test]
async fn one_retry_after_pauses_every_worker() {
    let bench = Bench::new().await;
    bench.server.answer(file(3), [Answer::Wait(429, "1"), Answer::Document]);
    bench.announce(0..100).await;
    bench.start();
    bench.until(DUE, 0).await;
    bench.stop().await;
    bench.check(0..100).await;
    let requests = bench.server.requests();
    let throttled = requests.iter().position(|request| request.path == format!("/files/{}/content", file(3))).unwrap();
    let pause = requests[throttled..].windows(2).position(|two| two[1].at - two[0].at > Duration::from_millis(900));
    let in_flight = pause.expect("no pause of a second between requests");
    assert!(in_flight < bench.config.workers, "{in_flight} more requests were sent than were in flight");
    assert!(requests.len() - throttled - in_flight > 100, "there were more documents to request");
}

#[tokio::test]
async fn the_rates_of_two_processes_add_up() {
    const SHARE: u32 = 20;
    let mut bench = Bench::new().await;
    bench.config.test.as_mut().unwrap().requests_per_second = Some(SHARE);
    bench.announce(0..60).await;
    bench.start();
    let other = Context::new();
    crate::fetch(bench.config.clone(), &bench.database.config, &other).unwrap();
    bench.until(DUE, 0).await;
    bench.stop().await;
    other.shutdown.stop();
    assert!(other.shutdown.wait(PATIENCE).await);
    bench.check(0..60).await;
    let times: Vec<Instant> = bench.server.requests().iter().map(|request| request.at).collect();
    // Evenly spaced requests do not arrive evenly: allow a tenth more.
    let most =
        times.iter().map(|end| times.iter().filter(|at| **at <= *end && *end - **at < Duration::from_secs(1)).count());
    let most = u32::try_from(most.max().unwrap()).unwrap();
    assert!(most <= 2 * SHARE * 11 / 10 + 4, "{most} requests in one second");
    assert!(most > SHARE, "the two processes do not send in parallel: {most}");
}

#[tokio::test]
async fn a_file_announced_a_hundred_times_is_downloaded_once() {
    let bench = Bench::new().await;
    bench.start();
    let again =
        |number: u32| FileEvent { event_id: EventId::parse(format!("again-{number}")).unwrap(), ..announced(7) };
    let now = bench.context.clock.now();
    let alone = (0..100).map(|number| announce(&bench.database, [again(number)], now));
    let together = announce(&bench.database, (100..200).map(again), now);
    futures::future::join(futures::future::join_all(alone), together).await;
    bench.until("SELECT count(*) FROM invoices WHERE state = 'stored'", 1).await;
    bench.stop().await;
    bench.check([7]).await;
    assert_eq!(bench.server.requests().len(), 2, "its metadata and its content");
}

#[tokio::test]
async fn an_invoice_of_an_unknown_order_is_stored_and_shown() {
    let bench = Bench::new().await;
    let memo = FileEvent { file_id: file(8), purpose: Purpose::CreditMemo, ..announced(7) };
    announce(&bench.database, [announced(7), memo], bench.context.clock.now()).await;
    bench.start();
    bench.until("SELECT count(*) FROM invoices WHERE state = 'stored'", 2).await;
    bench.stop().await;
    bench.check([7, 8]).await;
    assert_eq!(bench.count("SELECT count(*) FROM orders").await, 0);
    let mut connection = bench.database.pool.acquire().await.unwrap();
    let shown = view::of_order(&mut connection, "order-7").await.unwrap();
    assert_eq!(shown.iter().map(|row| row.state.as_str()).collect::<Vec<_>>(), ["stored", "stored"]);
    assert_eq!(shown[0].size_bytes, Some(i64::try_from(document(file(7)).len()).unwrap()));
    let missing = missing::count(&mut connection, &bench.config.missing, bench.context.clock.now()).await.unwrap();
    assert_eq!(missing.map(|(_, orders)| orders), [0, 0], "an unknown order has no missing invoice");
}
