//! Golden files: every shape of event that was ever accepted must remain readable.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use riverlock_schemas::{
    Envelope, Mode,
    events::{
        file_event::{FileEvent, Purpose},
        order_event::{OrderEvent, OrderSnapshot},
        order_state::OrderState,
    },
};

fn golden(name: &str) -> Vec<u8> {
    let path = format!("{}/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn event(name: &str) -> OrderEvent {
    let body = golden(name);
    OrderEvent::parse(&Envelope::parse(&body).unwrap(), &body, None).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn order(name: &str) -> OrderSnapshot {
    event(name).order.unwrap_or_else(|| panic!("{name} contains no order"))
}

#[test]
fn every_golden_file_is_an_event_and_is_listed() {
    let folder = format!("{}/golden", env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(format!("{folder}/README.md")).unwrap();
    let mut events = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".json") {
            assert!(readme.contains(&format!("`{name}`")), "{name} is not in the README");
            let body = golden(&name);
            let envelope = Envelope::parse(&body).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(name.starts_with(envelope.event_type.as_ref()), "{name} contains a {}", envelope.event_type);
            assert!(envelope.created_time.is_some() && envelope.mode.is_some(), "{name}");
            events += 1;
        }
    }
    assert_eq!(events, 32, "a golden event was removed, or added without being counted here");
}

#[test]
fn an_accepted_order_contains_the_data_for_a_warehouse() {
    let accepted = event("order.accepted.json");
    assert_eq!((accepted.order_id.as_str(), accepted.mode), ("310000000001", Mode::Test));
    let order = accepted.order.unwrap();
    let details = &order.details;
    assert_eq!(details.total_amount.unwrap().to_string(), "47.6");
    assert_eq!(details.selling_entity_id.as_deref(), Some("DR_IRELAND-ENTITY"));
    assert_eq!(details.ship_to.as_ref().unwrap().postal_code.as_deref(), Some("10115"));
    let line = &order.lines[0];
    assert_eq!((line.details.sku_id.as_deref(), line.details.quantity), (Some("lamp-blue"), Some(2)));
}

#[test]
fn an_expanded_order_contains_which_lines_are_physical() {
    let accepted = event("order.accepted.expanded.json");
    let order = accepted.order.unwrap();
    let physical: Vec<_> = order.lines.iter().map(|line| line.details.physical).collect();
    assert_eq!(physical, [Some(true), Some(false)]);
    assert_eq!(accepted.mode, Mode::Live);
    assert_eq!(order.details.upstream_id.as_deref(), Some("shop-4711"));
}

#[test]
fn a_complete_order_lists_all_its_states() {
    let states: Vec<_> = order("order.complete.json").transitions.iter().map(|(state, _)| *state).collect();
    assert_eq!(states, [OrderState::Accepted, OrderState::Complete, OrderState::Fulfilled]);
}

#[test]
fn an_older_order_without_listed_states_is_read() {
    let order = order("order.complete.older.json");
    assert!(order.transitions.is_empty());
    assert_eq!(order.state, Some(OrderState::Complete));
    assert_eq!(order.lines[0].details.sku_id.as_deref(), Some("stickers"));
}

#[test]
fn a_cancelled_order_was_never_accepted() {
    let order = order("order.cancelled.json");
    assert!(order.transitions.iter().all(|(state, _)| *state != OrderState::Accepted));
}

#[test]
fn the_purpose_of_a_file_follows_from_the_event_type() {
    for (name, purpose) in
        [("order.invoice.created.json", Purpose::Invoice), ("order.credit_memo.created.json", Purpose::CreditMemo)]
    {
        let body = golden(name);
        let envelope = Envelope::parse(&body).unwrap();
        assert_eq!(Purpose::of_event_type(&envelope.event_type), Some(purpose));
        let event = FileEvent::parse(&envelope, purpose, &body).unwrap();
        assert_eq!(event.order_id.as_str(), "310000000001");
        assert!(event.announced_url.unwrap().contains(&event.file_id.to_string()));
    }
}
