//! Recorded output about the account at Digital River in `docs/operations/`.

use std::{collections::BTreeSet, fs::OpenOptions, io::Write as _, time::Instant};

use chrono::TimeDelta;
use riverlock_sandbox::{Life, Mode, stack::kafka_for_test};
use riverlock_tests::{World, now};
use serde_json::{Value, json};

use crate::{
    interfaces::account::{DigitalRiver, WITHIN, command, example, until_recorded},
    pages::recorded::Page,
};

const TEST: &str = "the_pages_about_the_account_say_what_commands_print";

/// The host that replaces the local address on the pages.
const HOST: &str = "https://hooks.example.com";

/// Runs a command; returns its standard output, or its standard error if there is no output.
fn printed(world: &World, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut command = command(world, &words);
    let output = command.env("USER", "ada").env_remove("SUDO_USER").output().unwrap();
    let printed = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8(printed).unwrap().replace(&format!("http://{}", world.local.config.ingest.listen), HOST)
}

/// Records the output of commands in a block of a page. Returns the output of the last one.
fn block(world: &World, page: &mut Page, name: &str, commands: &[&str]) -> String {
    let (mut block, mut last) = (String::new(), String::new());
    for command in commands {
        last = printed(world, command);
        block.push_str(&format!("$ riverlock {command}\n{last}"));
    }
    page.block(name, &block);
    last
}

/// Id, `order.accepted` and lines of an order with two lines, the first with a quantity of at least two.
struct Accepted {
    order_id: String,
    body: Vec<u8>,
    lines: Vec<(String, i64)>,
}

fn accepted() -> Accepted {
    let lives = (0..200).map(|index| Life::generate(5, index, Mode::Test, now() - TimeDelta::days(2)));
    let found = lives.into_iter().find_map(|life| {
        let event = life.events.iter().find(|event| event.event_type == "order.accepted")?;
        let body: Value = serde_json::from_slice(&event.body).unwrap();
        let items = body["data"]["object"]["items"].as_array()?.iter();
        let lines: Vec<(String, i64)> =
            items.filter_map(|item| Some((item["id"].as_str()?.to_owned(), item["quantity"].as_i64()?))).collect();
        let fits = lines.len() == 2 && lines[0].1 >= 2;
        fits.then(|| Accepted { order_id: life.order_id.clone(), body: event.body.to_vec(), lines })
    });
    found.expect("some order has two lines")
}

/// A complete order of the usual form that ended four days ago.
fn complete() -> Life {
    let usual = ["order.accepted", "order.fulfilled", "order.complete", "order.invoice.created"];
    let lives = (0..200).map(|index| Life::generate(7, index, Mode::Test, now() - TimeDelta::days(4)));
    let is_usual = |life: &Life| {
        let types: BTreeSet<&str> = life.events.iter().map(|event| event.event_type).collect();
        types == BTreeSet::from(usual)
    };
    lives.into_iter().find(is_usual).expect("some order is of the usual kind")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_about_the_account_say_what_commands_print() {
    if !kafka_for_test(TEST) {
        return;
    }
    let world = World::start(12, 1, 1_000).await.unwrap();
    let mut file = OpenOptions::new().append(true).open(&world.local.config_file).unwrap();
    file.write_all(example(&world).as_bytes()).unwrap();
    let digital_river = DigitalRiver::of(&world);

    registrations(&world, &digital_river).await;
    shipments(&world, &digital_river).await;
    missing_events(&world, &digital_river).await;
    world.stop().await.unwrap();
}

async fn registrations(world: &World, digital_river: &DigitalRiver) {
    let mut page = Page::open("docs/start/salesforce.md");
    block(world, &mut page, "salesforce-registered", &["webhooks apply", "webhooks apply --apply"]);
    // Ingest reads its configuration every two seconds.
    wait(|| printed(world, "webhooks check --probe").ends_with("0 with problems\n")).await;
    block(world, &mut page, "salesforce-probed", &["webhooks check --probe"]);
    page.end();
    let listed = digital_river.send(reqwest::Method::GET, "/webhooks", Vec::new()).await;
    for webhook in listed["data"].as_array().unwrap() {
        let path = format!("/webhooks/{}", webhook["id"].as_str().unwrap());
        digital_river.send(reqwest::Method::DELETE, &path, Vec::new()).await;
    }

    let mut page = Page::open("docs/operations/registrations.md");
    block(world, &mut page, "registrations-applied", &["webhooks apply", "webhooks apply --apply"]);
    let listed = digital_river.send(reqwest::Method::GET, "/webhooks", Vec::new()).await;
    let of_invoices = |webhook: &&Value| webhook["types"] == json!(["order.invoice.created"]);
    let webhook = listed["data"].as_array().unwrap().iter().find(of_invoices).unwrap();
    let path = format!("/webhooks/{}", webhook["id"].as_str().unwrap());
    let changed = json!({ "types": ["order.accepted", "order.blocked"], "enabled": false }).to_string();
    digital_river.send(reqwest::Method::PATCH, &path, changed.into_bytes()).await;
    block(world, &mut page, "registrations-checked", &["webhooks check"]);
    page.end();
    printed(world, "webhooks apply --apply");
}

async fn shipments(world: &World, digital_river: &DigitalRiver) {
    let Accepted { order_id, body, lines } = accepted();
    let id = digital_river.happens(&body, false).await;
    let mut connection = world.local.config.postgres.connect().await.unwrap();
    until_recorded(&mut connection, &[id]).await;

    let mut page = Page::open("docs/operations/shipments.md");
    let [(first, shipped), (second, cancelled)] = [&lines[0], &lines[1]];
    let order = format!("shipments add {order_id} --mode test");
    let added = format!(
        "{order} --key warehouse-4711 --ship {first}={shipped} --cancel {second}={cancelled} --tracking-company DHL \
         --tracking-number JD0146000030"
    );
    let stored = printed(world, &added);
    let again = format!("{order} --key warehouse-4712 --ship {first}=1");
    let refused = printed(world, &again);
    page.block("shipment-stored", &format!("$ riverlock {added}\n{stored}$ riverlock {again}\n{refused}"));
    let report_id = stored.split_whitespace().nth(1).unwrap().to_owned();
    let show = format!("shipments show {report_id}");
    wait(|| printed(world, &show).contains(" reported")).await;
    block(world, &mut page, "shipment-shown", &[&show]);
    page.end();
}

async fn missing_events(world: &World, digital_river: &DigitalRiver) {
    for event in complete().events {
        digital_river.happens(&event.body, true).await;
    }
    let mut page = Page::open("docs/operations/missing-events.md");
    block(world, &mut page, "missing-events", &["reconcile --since 5d"]);
    block(world, &mut page, "missing-orders", &["reconcile --orders --since 5d"]);
    block(world, &mut page, "missing-events-fetched", &["reconcile --since 5d --apply", "reconcile --since 5d"]);
    page.end();
}

/// Waits until a condition holds.
async fn wait(is_true: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_true() {
        assert!(begun.elapsed() < WITHIN, "the condition did not hold in time");
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}
