//! Replays: stored events are skipped, lost ones are applied, and a plan is applied exactly or not at all.

mod harness;
mod selecting;
mod times;

use std::process::Stdio;

use riverlock_recovery::replay::{self, ReplayError, Selection};
use riverlock_runtime::Context;
use riverlock_tests::binary;

use self::harness::{Produced, Setting, Watcher, has_type};

/// Enough for several chunks.
const ORDERS: u64 = 320;

#[tokio::test(flavor = "multi_thread")]
async fn replaying_stored_records_changes_nothing() {
    let setting = Setting::with_orders(31, 60).await;
    let before = setting.everything().await;
    let planned = setting.plan(&Selection::default()).await.unwrap();
    assert_eq!(planned.plan, None, "{planned:?}");
    assert_eq!((planned.report.known, planned.report.fresh()), (setting.records(), 0));
    assert_eq!(setting.everything().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_rows_are_restored_as_planned_byte_for_byte() {
    let setting = Setting::with_orders(32, ORDERS).await;
    let complete = setting.state().await;
    let effects = setting.count("SELECT count(*) FROM effects").await;
    setting.lose("order_id IS NULL OR hashtext(order_id) % 2 = 0").await;
    let lost = setting.everything().await;
    let lost_messages = effects - setting.count("SELECT count(*) FROM effects").await;
    assert_ne!(setting.state().await, complete, "nothing was lost: the test showed nothing");

    let planned = setting.plan(&Selection::default()).await.unwrap();
    assert_eq!(setting.everything().await, lost, "a dry run changes nothing");
    assert_eq!(setting.plan(&Selection::default()).await.unwrap().plan, planned.plan, "the same plan, the same hash");
    assert_eq!(planned.report.effects, u64::try_from(lost_messages).unwrap());
    assert!(planned.report.documents > 0 && planned.report.outcomes["applied"] > 0, "{:?}", planned.report);
    assert!(planned.orders.iter().all(|order| order.before.is_none()), "the orders were not stored: {planned:?}");

    let offsets = setting.offsets().await;
    let applied = setting.apply(&planned).await.unwrap();
    assert!(applied.done && applied.chunks > 1, "{applied:?}");
    assert_eq!((applied.fresh, applied.effects), (planned.report.fresh(), planned.report.effects));
    assert_eq!(setting.state().await, complete);
    assert_eq!(setting.count("SELECT count(*) FROM effects").await, effects);
    assert_eq!(setting.offsets().await, offsets, "no consumer's offset moves");
    setting.audit().await;

    let again = setting.apply(&planned).await.unwrap_err();
    assert!(matches!(again, ReplayError::AlreadyDone { .. }), "{again}");
    assert_eq!(setting.plan(&Selection::default()).await.unwrap().plan, None);

    // The same loss again has the same plan.
    setting.lose("order_id IS NULL OR hashtext(order_id) % 2 = 0").await;
    let second = setting.plan(&Selection::default()).await.unwrap();
    assert_eq!(second.plan, planned.plan);
    assert!(setting.apply(&second).await.unwrap().done);
    assert_eq!(setting.state().await, complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_shows_an_order_that_lost_its_later_events_before_and_after() {
    let setting = Setting::with_orders(33, 80).await;
    let complete = setting.state().await;
    // Deletes complete orders and all their events but the first, as if only that one had been stored.
    let order = setting.text("SELECT order_id FROM orders WHERE status = 'complete' ORDER BY 1 LIMIT 1").await;
    setting.lose(&format!("order_id = '{order}'")).await;
    let first =
        Selection { orders: vec![order.clone()], types: vec!["order.accepted".to_owned()], ..Selection::default() };
    let planned = setting.plan(&first).await.unwrap();
    assert!(setting.apply(&planned).await.unwrap().done);
    let status = setting.text(&format!("SELECT status FROM orders WHERE order_id = '{order}'")).await;

    let rest = Selection { orders: vec![order.clone()], ..Selection::default() };
    let planned = setting.plan(&rest).await.unwrap();
    assert_eq!(planned.report.orders, 1);
    assert_eq!(planned.orders[0].before.as_deref(), Some(status.as_str()));
    assert_eq!((planned.orders[0].order_id.as_str(), planned.orders[0].after.as_str()), (order.as_str(), "complete"));
    assert!(planned.effects.iter().all(|effect| effect.order_id == order && effect.kind != "fulfillment.requested"));
    assert!(setting.apply(&planned).await.unwrap().done);
    assert_eq!(setting.state().await, complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_plan_is_rejected_and_its_chunk_is_not_stored() {
    let setting = Setting::with_orders(34, 40).await;
    let complete = setting.state().await;
    setting.lose("hashtext(order_id) % 2 = 0").await;
    let planned = setting.plan(&Selection::default()).await.unwrap();
    // Digital River delivers one of the lost events again, and the live consumer applies it.
    let known = setting.known_orders().await;
    let is_lost = |produced: &Produced| has_type(produced, "order.accepted") && !known.contains(&produced.1);
    let again = setting.bodies().into_iter().find(is_lost);
    assert!(again.is_some(), "nothing was lost: the test showed nothing");
    setting.produce(again).await;
    setting.consume_all().await;
    let before = setting.everything().await;

    let error = setting.apply(&planned).await.unwrap_err();
    assert!(matches!(error, ReplayError::Deviates { .. }), "{error}");
    assert!(error.to_string().contains("duplicate=1"), "{error}");
    assert_eq!(setting.everything().await, before, "nothing was committed");
    let refused = setting.text("SELECT state FROM replay_runs").await;
    assert_eq!(refused, "refused");

    let left = setting.plan(&Selection::default()).await.unwrap();
    assert!(setting.apply(&left).await.unwrap().done);
    assert_eq!(setting.state().await, complete);
    setting.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_stopped_between_chunks_is_resumed() {
    let setting = Setting::with_orders(35, ORDERS).await;
    let complete = setting.state().await;
    setting.lose("true").await;
    let planned = setting.plan(&Selection::default()).await.unwrap();
    let first = setting.apply_watched(&planned, Watcher::that_stops_after(1)).await.unwrap();
    assert!(!first.done && first.chunks == 1, "{first:?}");
    assert_ne!(setting.state().await, complete);
    let rest = setting.apply(&planned).await.unwrap();
    assert!(rest.done && rest.resumed_at_chunk == 1, "{rest:?}");
    assert_eq!(first.records + rest.records, planned.report.records);
    assert_eq!(first.fresh + rest.fresh, planned.report.fresh());
    assert_eq!(setting.state().await, complete);
    setting.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_a_host_with_a_fast_clock_is_resumed_and_applied_once() {
    let setting = Setting::with_orders(41, ORDERS).await;
    setting.lose("true").await;
    let planned = setting.plan(&Selection::default()).await.unwrap();
    let mut connection = setting.connect().await;
    let ahead = "UPDATE replay_plans SET created_at = created_at + interval '1 day'";
    sqlx::query(ahead).execute(&mut connection).await.unwrap();
    let first = setting.apply_watched(&planned, Watcher::that_stops_after(1)).await.unwrap();
    assert!(!first.done && first.chunks == 1, "{first:?}");
    let rest = setting.apply(&planned).await.unwrap();
    assert!(rest.done && rest.resumed_at_chunk == 1, "{rest:?}");
    let again = setting.apply(&planned).await.unwrap_err();
    assert!(matches!(again, ReplayError::AlreadyDone { .. }), "{again}");
    assert_eq!(setting.state().await, setting.state_of_all_bodies().await);

    // A plan that this version cannot read does not hide the others.
    let broken = "INSERT INTO replay_plans SELECT sha256('x'), '{\"orders\":7}', summary, chunk_records, chunk_bytes, created_at,
                  'somebody' FROM replay_plans";
    sqlx::query(broken).execute(&mut connection).await.unwrap();
    let listed = replay::runs(&mut connection, 10).await.unwrap();
    let by = |by: &str| listed.iter().find(|run| run.planned_by == by).unwrap();
    assert_eq!(by("a test").state, "done");
    assert!(by("somebody").detail.as_deref().unwrap_or_default().contains("cannot read the plan"), "{listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replay_is_resumed_and_nothing_is_applied_twice() {
    let setting = Setting::with_orders(36, ORDERS).await;
    let complete = setting.state().await;
    let effects = setting.count("SELECT count(*) FROM effects").await;
    setting.lose("true").await;
    let plan = setting.plan(&Selection::default()).await.unwrap().plan.expect("something was lost").to_string();
    // Without an account at Digital River, which a replay does not need.
    let riverlock = |words: &[&str]| {
        let mut command = tokio::process::Command::new(binary().unwrap());
        command
            .env("RIVERLOCK__KAFKA__BROKERS", &setting.kafka().brokers)
            .env("RIVERLOCK__KAFKA__PARTITIONS", setting.kafka().partitions.to_string())
            .env("RIVERLOCK__POSTGRES__URL", setting.database.config.url.expose())
            .args(words)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    };
    let command = |rate: &str, why: &str| {
        riverlock(&["replay", "--plan", &plan[..16], "--apply", "--reason", why, "--by", "ada", "--rate", rate])
    };
    // One chunk per second, so that it can be killed between two.
    let mut child = command("500", "the backup was old").stdout(Stdio::null()).spawn().unwrap();
    setting.until("SELECT count(*) FROM replay_runs WHERE next_chunk > 0", 1).await;
    child.kill().await.unwrap();
    let done = setting.count("SELECT next_chunk FROM replay_runs").await;
    let chunks = i64::try_from(setting.records().div_ceil(500)).unwrap();
    assert!((1..chunks).contains(&done), "it was killed too late, after {done} chunks: the test showed nothing");

    let output = command("1000000", "the host failed").output().await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains("applied") && err.contains("resuming after"), "{out}{err}");
    assert_eq!(setting.state().await, complete);
    assert_eq!(setting.count("SELECT count(*) FROM effects").await, effects);
    setting.audit().await;

    let listed = replay::runs(&mut setting.connect().await, 10).await.unwrap();
    let recorded = [&listed[0].started_by, &listed[0].why, &listed[0].resumed_by, &listed[0].resumed_why];
    let recorded = recorded.map(|text| text.as_deref().unwrap_or_default());
    assert_eq!(recorded, ["ada", "the backup was old", "ada", "the host failed"]);
    let output = riverlock(&["replay", "--plan", &plan[..16]]).output().await.unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    for expected in [": DONE\n", " by ada (the backup was old)", "resumed   by ada (the host failed)"] {
        assert!(shown.contains(expected), "{shown}");
    }
    assert!(!shown.contains("apply with"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_during_live_traffic_of_two_processors_restores_everything() {
    let setting = Setting::with_orders(37, ORDERS).await;
    setting.lose("hashtext(order_id) % 2 = 0").await;
    let planned = setting.plan(&Selection::default()).await.unwrap();
    let contexts = [Context::new(), Context::new()];
    let live: Vec<_> = contexts.iter().map(|context| setting.consume(context)).collect();
    // Other orders arrive meanwhile.
    let more = setting.more(38, ORDERS);
    let ((), applied) = tokio::join!(setting.produce(more), setting.apply(&planned));
    assert!(applied.unwrap().done);
    setting.until_consumed().await;
    contexts.iter().for_each(|context| context.shutdown.stop());
    for task in live {
        task.await;
    }
    let plain = setting.state_of_all_bodies().await;
    assert_eq!(setting.state().await, plain);
    setting.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_postgres_rejects_are_dead_letters_in_plan_and_replay() {
    let setting = Setting::empty().await;
    setting
        .produce((0..30).map(|i| setting.other(&if i % 10 == 5 { format!("rejected-{i}") } else { format!("e-{i}") })))
        .await;
    // The consumer's offsets are at the end, and all rows are lost.
    setting.consume_all().await;
    sqlx::query("DELETE FROM event_records").execute(&mut setting.connect().await).await.unwrap();
    let consumers = [harness::selective(setting.kafka())];
    let planned = setting.plan_with(&consumers, &Selection::default()).await.unwrap();
    assert_eq!((planned.report.outcomes["applied"], planned.report.outcomes["dead"]), (27, 3), "{planned:?}");
    assert_eq!(setting.count("SELECT count(*) FROM dead_letters").await, 0);
    let replay = setting.replay(&consumers);
    let plan = planned.plan.expect("the plan is not empty").to_string();
    assert!(replay::apply(&replay, &plan, &mut Watcher::default()).await.unwrap().done);
    assert_eq!(setting.count("SELECT count(*) FROM dead_letters WHERE reason = 'database'").await, 3);
    assert_eq!(setting.count("SELECT count(*) FROM event_records").await, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_at_a_time_applies_a_plan() {
    let setting = Setting::with_orders(39, ORDERS).await;
    setting.lose("true").await;
    let planned = setting.plan(&Selection::default()).await.unwrap();
    let (one, two) = tokio::join!(setting.apply(&planned), async {
        setting.until("SELECT count(*) FROM replay_runs", 1).await;
        setting.apply(&planned).await
    });
    assert!(one.unwrap().done);
    let two = two.unwrap_err();
    assert!(matches!(two, ReplayError::Busy(_) | ReplayError::AlreadyDone { .. }), "{two}");
    assert_eq!(setting.state().await, setting.state_of_all_bodies().await);
    let listed = replay::runs(&mut setting.connect().await, 10).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].state.as_str(), listed[0].planned_by.as_str()), ("done", "a test"));
}
