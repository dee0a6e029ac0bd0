//! Every golden event means for ever what it meant when it was added.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is reported")]

use std::{collections::BTreeSet, path::Path};

use riverlock_ledger::{Decision, Projection as _};
use riverlock_processor::{
    Orders,
    domain::{Anomaly, EfnStatus, Facts, OrderKey, effects},
};
use riverlock_schemas::{Envelope, Mode};

/// What an event says of an order of which nothing else is known.
struct Expected {
    file: &'static str,
    /// Order, mode, status; `Err` with the reason for which it has no effect.
    order: Result<(&'static str, Mode, &'static str), &'static str>,
    /// The messages that it causes, with their keys.
    messages: &'static [&'static str],
    efn: EfnStatus,
    /// Ordered, fulfilled and cancelled pieces of each line.
    lines: &'static [(&'static str, Option<i64>, i64, i64)],
    anomalies: &'static [&'static str],
}

const TEST: Mode = Mode::Test;
const LIVE: Mode = Mode::Live;

#[rustfmt::skip]
const EXPECTED: [Expected; 32] = {
    use EfnStatus::{Completed, Open, Pending};
    const fn of(
        file: &'static str,
        order: Result<(&'static str, Mode, &'static str), &'static str>,
        messages: &'static [&'static str],
        efn: EfnStatus,
        lines: &'static [(&'static str, Option<i64>, i64, i64)],
        anomalies: &'static [&'static str],
    ) -> Expected {
        Expected { file, order, messages, efn, lines, anomalies }
    }
    const NO: &[(&str, Option<i64>, i64, i64)] = &[];
    [
        of("order.accepted.json", Ok(("310000000001", TEST, "ready")), &["requested"], Open, &[("510000000001", Some(2), 0, 0)], &[]),
        of("order.accepted.expanded.json", Ok(("310000000002", LIVE, "ready")), &["requested"], Open, &[("510000000002", Some(1), 0, 0), ("510000000003", Some(1), 0, 0)], &[]),
        of("order.complete.json", Ok(("310000000001", TEST, "complete")), &["requested", "completed"], Completed, &[("510000000001", Some(2), 2, 0)], &[]),
        of("order.complete.older.json", Ok(("310000000003", TEST, "complete")), &["completed"], Completed, &[("510000000004", Some(3), 3, 0)], &[]),
        of("order.cancelled.json", Ok(("310000000004", TEST, "cancelled")), &[], Completed, &[("510000000005", Some(1), 0, 1)], &[]),
        of("order.cancelled.expanded.json", Ok(("310000000011", LIVE, "cancelled")), &["requested", "halted"], Completed, &[("510000000011", Some(3), 0, 3)], &[]),
        of("order.pending_payment.json", Ok(("310000000010", TEST, "on_hold")), &[], Open, &[("510000000010", Some(2), 0, 0)], &[]),
        of("order.review_opened.json", Ok(("310000000010", TEST, "on_hold")), &[], Open, &[("510000000010", Some(2), 0, 0)], &[]),
        of("order.blocked.json", Ok(("310000000010", TEST, "blocked")), &[], Open, &[("510000000010", Some(2), 0, 0)], &[]),
        of("order.fulfilled.json", Ok(("310000000012", TEST, "fulfilled")), &["requested"], Completed, &[("510000000012", Some(3), 3, 0), ("510000000013", Some(1), 0, 1)], &[]),
        of("order.returned.json", Ok(("310000000013", TEST, "returned")), &["requested", "completed"], Completed, &[("510000000014", Some(1), 1, 0)], &[]),
        of("order.refunded.json", Ok(("310000000014", TEST, "complete")), &["requested", "completed"], Completed, &[("510000000015", Some(1), 1, 0)], &[]),
        of("order.dispute.json", Ok(("310000000015", TEST, "disputed")), &["requested", "completed", "disputed"], Completed, &[("510000000016", Some(1), 1, 0)], &[]),
        of("order.dispute.resolved.json", Ok(("310000000015", TEST, "complete")), &["requested", "completed", "disputed"], Completed, &[("510000000016", Some(1), 1, 0)], &[]),
        of("order.chargeback.json", Ok(("310000000015", TEST, "disputed")), &["disputed"], Open, NO, &[]),
        of("order.chargeback.order.json", Ok(("310000000015", TEST, "disputed")), &["requested", "completed", "disputed"], Completed, &[("510000000016", Some(1), 1, 0)], &[]),
        of("order.charge.failed.json", Ok(("310000000016", TEST, "payment_failed")), &[], Open, NO, &[]),
        of("order.charge.failed.order.json", Ok(("310000000017", TEST, "payment_failed")), &[], Open, &[("510000000017", Some(2), 0, 0)], &[]),
        of("order.charge.failed.older.json", Ok(("310000000018", TEST, "cancelled")), &[], Open, &[("510000000018", Some(3), 0, 0)], &[]),
        of("order.charge.capture.failed.json", Ok(("310000000012", TEST, "on_hold")), &["capture_failed capture:610000000020:810000000021"], Open, NO, &["capture_failed"]),
        of("order.charge.capture.failed.older.json", Ok(("310000000019", TEST, "on_hold")), &["capture_failed capture:610000000021:@11a0c9f2-0d6e-4b6c-9a51-2f6f0c7d1e16"], Open, NO, &["capture_failed"]),
        of("order.charge.capture.complete.json", Ok(("310000000012", TEST, "on_hold")), &[], Open, NO, &[]),
        of("order.charge.cancel.complete.json", Ok(("310000000020", TEST, "on_hold")), &[], Open, NO, &[]),
        of("order.charge.cancelled.json", Ok(("310000000021", TEST, "payment_failed")), &[], Open, NO, &[]),
        of("order.charge.refund.complete.json", Ok(("310000000014", TEST, "on_hold")), &[], Open, NO, &[]),
        of("order.charge.reauth.failed.json", Ok(("310000000022", TEST, "on_hold")), &["capture_failed reauthorization:610000000024:@11a0c9f2-0d6e-4b6c-9a51-2f6f0c7d1e21"], Open, NO, &["capture_failed"]),
        of("fulfillment.created.json", Ok(("310000000012", TEST, "ready")), &["requested", "reported ful_01"], Pending, &[("510000000012", Some(3), 1, 0), ("510000000013", Some(1), 0, 1)], &[]),
        of("fulfillment.created.older.json", Ok(("310000000012", TEST, "on_hold")), &["reported ful_02"], Pending, &[("510000000012", None, 2, 0)], &[]),
        of("order.loyalty.credited.json", Err("unhandled_type"), &[], Open, NO, &[]),
        of("payout.created.json", Err("unhandled_type"), &[], Open, NO, &[]),
        of("order.invoice.created.json", Err("unhandled_type"), &[], Open, NO, &[]),
        of("order.credit_memo.created.json", Err("unhandled_type"), &[], Open, NO, &[]),
    ]
};

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("schemas/golden")
}

/// What an event is to the processor; `Err` with the reason for which it has no effect.
fn read(file: &str) -> Result<(OrderKey, Facts), &'static str> {
    let body = std::fs::read(golden().join(file)).unwrap();
    let envelope = Envelope::parse(&body).unwrap();
    match Orders::new(vec![Mode::Test, Mode::Live]).decide(&envelope, &body) {
        Decision::Apply(event) => Ok(Facts::of(event, false)),
        Decision::Ignore(reason) => Err(reason),
        Decision::Dead(dead) => panic!("{file} is a dead letter: {dead:?}"),
    }
}

fn messages(key: &OrderKey, facts: &Facts) -> Vec<String> {
    let messages = effects::new_messages(key, &Facts::default(), facts);
    let name = |kind: &str| kind.strip_prefix("fulfillment.").unwrap_or(kind).to_owned();
    messages
        .iter()
        .map(|message| format!("{} {}", name(message.kind()), message.effect_key()).trim_end().to_owned())
        .collect()
}

#[test]
fn every_golden_event_has_its_outcome_status_quantities_and_messages() {
    for expected in &EXPECTED {
        let file = expected.file;
        let (key, facts) = match (read(file), expected.order) {
            (Ok(read), Ok((order_id, mode, status))) => {
                let found = (read.0.order_id.as_str(), read.0.mode, read.1.status().as_str());
                assert_eq!(found, (order_id, mode, status), "{file}");
                read
            }
            (found, wanted) => {
                assert_eq!(found.err(), wanted.err(), "{file}");
                continue;
            }
        };
        assert_eq!(messages(&key, &facts), expected.messages, "{file}");
        assert_eq!(facts.efn_status(), expected.efn, "{file}");
        let lines: Vec<_> = facts
            .quantities()
            .into_iter()
            .map(|(line, found)| (line.as_str(), found.ordered, found.fulfilled, found.cancelled))
            .collect();
        assert_eq!(lines, expected.lines, "{file}");
        let anomalies: Vec<_> = facts.anomalies().into_iter().map(Anomaly::as_str).collect();
        assert_eq!(anomalies, expected.anomalies, "{file}");
    }
}

#[test]
fn no_golden_event_is_without_an_expectation() {
    let files: BTreeSet<String> = std::fs::read_dir(golden())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".json"))
        .collect();
    assert_eq!(files, EXPECTED.iter().map(|expected| expected.file.to_owned()).collect());
}
