use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use super::*;

fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_600_000, 0).unwrap()
}

fn life(seed: u64, index: u64) -> Life {
    Life::generate(seed, index, Mode::Test, start())
}

fn json(event: &PlannedEvent) -> Value {
    serde_json::from_slice(&event.body).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_mode_or_start_others() {
    for index in [0, 1, 99_999, u64::MAX] {
        assert_eq!(life(7, index), life(7, index));
    }
    let later = start() + TimeDelta::milliseconds(1);
    let others =
        [life(8, 3), life(7, 4), Life::generate(7, 3, Mode::Live, start()), Life::generate(7, 3, Mode::Test, later)];
    for other in others {
        assert_ne!(other.order_id, life(7, 3).order_id);
        assert_ne!(other.events[0].id, life(7, 3).events[0].id);
    }
}

#[test]
fn a_seed_yields_the_same_life_in_every_version() {
    let life = life(1, 0);
    assert_eq!(life.order_id, "924469841958");
    assert_eq!(life.events[0].id, "947572f3-1afa-40c2-94b1-38c0942fcaa3");
    assert_eq!(life.expected.invoices, ["e89cbdb3-6573-4974-85bf-bebcc6468e9c"]);
}

#[test]
fn ten_thousand_lives_share_no_order_event_or_file() {
    let (mut orders, mut events, mut files) = (HashSet::new(), HashSet::new(), HashSet::new());
    for index in 0..10_000 {
        let life = life(1, index);
        assert_eq!(life.order_id.len(), 12);
        for event in &life.events {
            assert!(events.insert(event.id.clone()));
        }
        for file in life.expected.files() {
            assert!(files.insert(file.to_owned()));
        }
        assert!(orders.insert(life.order_id));
    }
}

#[test]
fn lives_have_the_documented_mix() {
    let mut endings = BTreeMap::<&str, u32>::new();
    let (mut two_invoices, mut credit_memos, mut unknown, mut preludes) = (0, 0, 0, 0);
    for index in 0..10_000 {
        let life = life(2, index);
        *endings.entry(life.expected.status).or_default() += 1;
        two_invoices += u32::from(life.expected.invoices.len() == 2);
        credit_memos += u32::from(!life.expected.credit_memos.is_empty());
        unknown += u32::from(life.events.iter().any(|event| event.order_id.is_none()));
        preludes += u32::from(life.expected.status == "complete" && life.events[0].event_type != "order.accepted");
        assert_eq!(life.expected.status == "complete", !life.expected.invoices.is_empty());
    }
    let within = |name: &str, from: u32, to: u32| {
        let count = endings.get(name).copied().unwrap_or(0);
        assert!((from..to).contains(&count), "{name}: {count}");
    };
    within("complete", 8_600, 9_000);
    within("cancelled", 400, 600);
    within("blocked", 230, 370);
    within("ready", 60, 150);
    within("on_hold", 90, 220);
    within("fulfilled", 90, 220);
    assert!((100..260).contains(&two_invoices), "{two_invoices}");
    assert!((180..350).contains(&credit_memos), "{credit_memos}");
    assert!((130..270).contains(&unknown), "{unknown}");
    assert!((1_900..2_500).contains(&preludes), "{preludes}");
}

#[test]
fn times_increase_and_every_snapshot_contains_the_previous_one() {
    for index in 0..2_000 {
        let life = life(3, index);
        let mut before = serde_json::Map::new();
        let mut updated = String::new();
        for pair in life.events.windows(2) {
            assert!(pair[0].created_time < pair[1].created_time, "life {index}");
        }
        for event in life.events.iter().filter(|event| event.event_type.starts_with("order.")) {
            let body = json(event);
            assert_eq!(body["id"], event.id.as_str());
            assert_eq!(body["type"], event.event_type);
            assert_eq!(body["liveMode"], false);
            let object = &body["data"]["object"];
            if object.get("fileId").is_some() {
                assert_eq!(object["orderId"], life.order_id.as_str());
                assert_eq!(object["id"], object["fileId"]);
                continue;
            }
            assert_eq!(object["id"], life.order_id.as_str());
            let transitions = object["stateTransitions"].as_object().unwrap().clone();
            assert_eq!(transitions.len(), before.len() + 1);
            assert!(before.iter().all(|(state, at)| transitions.get(state) == Some(at)));
            assert!(transitions.contains_key(object["state"].as_str().unwrap()));
            let now = object["updatedTime"].as_str().unwrap().to_owned();
            assert!(DateTime::parse_from_rfc3339(&now).unwrap() <= event.created_time);
            assert!(updated.is_empty() || parse(&updated) < parse(&now));
            (before, updated) = (transitions, now);
        }
    }
}

fn parse(time: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(time).unwrap().to_utc()
}

#[test]
fn the_last_snapshot_agrees_with_the_expected_status() {
    for index in 0..2_000 {
        let life = life(4, index);
        let last = life.events.iter().rev().map(json).find(|body| body["data"]["object"].get("state").is_some());
        let state = last.unwrap()["data"]["object"]["state"].as_str().unwrap().to_owned();
        let status = match state.as_str() {
            "accepted" => "ready",
            "pending_payment" | "in_review" => "on_hold",
            other => other,
        };
        assert_eq!(status, life.expected.status);
    }
}

#[test]
fn all_documented_shapes_occur_and_money_adds_up() {
    let (mut older, mut newer, mut expanded, mut digital, mut fraction, mut partly) = (0, 0, 0, 0, 0, 0);
    for index in 0..2_000 {
        for event in life(5, index).events {
            assert!((200..6_000).contains(&event.body.len()), "{} bytes", event.body.len());
            let body = json(&event);
            let object = &body["data"]["object"];
            if object.get("items").is_none() {
                continue;
            }
            older += u32::from(object.get("charges").is_some());
            newer += u32::from(object["payment"].get("charges").is_some());
            expanded += u32::from(object["items"][0]["productDetails"].get("physical").is_some());
            digital += u32::from(object.get("shipTo").is_none());
            fraction += u32::from(object["updatedTime"].as_str().unwrap().contains('.'));
            let cents = |name: &str| (object[name].as_f64().unwrap() * 100.0).round();
            assert!((cents("subtotal") + cents("totalTax") - cents("totalAmount")).abs() < 0.5);
            let is_complete = object["state"] == "complete";
            partly += u32::from(is_complete && cents("cancelledAmount") > 0.0);
            if is_complete {
                let sum = cents("capturedAmount") + cents("cancelledAmount");
                assert!((sum - cents("totalAmount")).abs() < 0.5);
            }
        }
    }
    for (name, count) in [
        ("older", older),
        ("newer", newer),
        ("expanded", expanded),
        ("digital", digital),
        ("fraction", fraction),
        ("partly", partly),
    ] {
        assert!(count > 10, "{name}: {count}");
    }
}
