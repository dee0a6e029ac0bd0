//! The recipes of `docs/operations/recover/`, executed on a stack.

use riverlock::develop::demo::drain;
use riverlock_ledger::PostgresConfig;
use riverlock_sandbox::{sender::sign, stack::kafka_for_test};
use riverlock_tests::{World, backup::Backup, binary, now};
use sqlx::AssertSqlSafe;
use tokio::process::Command;

use crate::pages::recorded::Page;

/// Orders at the start, orders played while a consumer is stopped, and their rate.
const ORDERS: u64 = 60;
const LATER_ORDERS: u64 = 10;
const RATE_PER_SECOND: u32 = 150;
/// The ids of the two orders whose events become dead letters.
const HURT: [&str; 2] = ["252246099001", "252246099002"];

/// The pages with recorded output.
const PAGES: [&str; 4] = [
    "docs/operations/recover/README.md",
    "docs/operations/recover/orders.md",
    "docs/operations/recover/database.md",
    "docs/operations/recover/dead-letters.md",
];

/// A stack, and the pages whose recipes are executed on it.
struct RecipeRunner {
    world: World,
    pages: Vec<Page>,
}

impl RecipeRunner {
    fn postgres(&self) -> PostgresConfig {
        self.world.local.config.postgres.clone()
    }

    /// Runs commands and records their output in a block of its page. Returns the output of the last one.
    async fn block(&mut self, name: &str, commands: &[&str]) -> String {
        let (mut block, mut last) = (String::new(), String::new());
        for command in commands {
            last = self.run(command).await;
            block.push_str(&format!("$ riverlock {command}\n{last}"));
        }
        let page = self.pages.iter_mut().find(|page| page.has_block(name));
        page.unwrap_or_else(|| panic!("no page has block {name}")).block(name, &block);
        last
    }

    /// Runs a command; returns its standard output, or its standard error if there is no output.
    async fn run(&self, words: &str) -> String {
        let mut command = Command::new(binary().unwrap());
        command.arg("--config").arg(&self.world.local.config_file).args(split(words));
        let output = command
            .env("USER", "ada")
            .env("RIVERLOCK_TERMINAL_WIDTH", "150")
            .env_remove("SUDO_USER")
            .output()
            .await
            .unwrap();
        let printed = if output.stdout.is_empty() { output.stderr } else { output.stdout };
        String::from_utf8(printed).unwrap()
    }

    async fn execute(&self, statement: &str) {
        let mut connection = self.postgres().connect().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await.unwrap();
    }

    async fn value(&self, query: &str) -> String {
        let mut connection = self.postgres().connect().await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut connection).await.unwrap()
    }

    async fn play(&mut self, seed: u64, orders: u64) {
        (self.world.play.seed, self.world.play.orders) = (seed, orders);
        let report = self.world.begin().await.unwrap().unwrap();
        assert!(report.complete, "{:?}", report.counts);
    }

    async fn stop_consumers(&self) {
        for service in &self.world.local.services[1..] {
            service.stop().await.unwrap();
        }
    }

    /// Starts the stopped consumers, and waits until everything is processed.
    async fn start_and_drain(&mut self) {
        self.world.local.restart_ended().await.unwrap();
        self.drain().await;
    }

    async fn drain(&mut self) {
        drain::wait(&mut self.world.local).await.unwrap();
    }
}

/// The words of a command line, with single quotes.
fn split(line: &str) -> Vec<String> {
    let mut words = vec![];
    for (index, part) in line.split('\'').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// The command at the end of a dry run's output.
fn plan(printed: &str, reason: &str) -> String {
    let command = printed.lines().find_map(|line| line.strip_prefix("apply with: riverlock "));
    command.unwrap_or_else(|| panic!("no plan: {printed}")).replace("TEXT", &format!("'{reason}'"))
}

/// Statements that delete every row of some orders.
fn forget(which: &str) -> String {
    let tables = ["outbox", "charge_operations", "shipments", "orders", "invoices", "events"];
    let rows = tables.map(|table| format!("DELETE FROM {table} WHERE {which};"));
    format!("BEGIN; {} COMMIT", rows.join(" "))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recipes_print_what_their_page_says() {
    if !kafka_for_test("the_recipes_print_what_their_page_says") {
        return;
    }
    let world = World::start(1, ORDERS, RATE_PER_SECOND).await.unwrap();
    let mut runner = RecipeRunner { world, pages: PAGES.map(Page::open).into() };
    runner.play(1, ORDERS).await;
    runner.drain().await;

    one_order(&mut runner).await;
    fixed_bug(&mut runner).await;
    restored(&mut runner).await;
    consumer_was_down(&mut runner).await;
    dead_letters(&mut runner).await;
    rebuilt(&mut runner).await;
    runner.block("plans", &["replay list --limit 2"]).await;

    let RecipeRunner { world, pages } = runner;
    world.stop().await.unwrap();
    pages.into_iter().for_each(Page::end);
}

async fn one_order(runner: &mut RecipeRunner) {
    // An order without duplicates, so that the output is always the same.
    let order = runner
        .value(
            "SELECT min(order_id) FROM orders o JOIN invoices USING (order_id)
             WHERE status = 'complete' AND state = 'stored'
               AND seen = '{order.accepted,order.complete,order.fulfilled}'
               AND (SELECT count(*) FROM event_records e WHERE e.order_id = o.order_id) = 4",
        )
        .await;
    runner.execute(&forget(&format!("order_id = '{order}'"))).await;
    runner.block("order-is-unknown", &[&format!("orders show {order}")]).await;
    let printed = runner.block("order-dry-run", &[&format!("replay --order {order}")]).await;
    runner.block("order-replayed", &[&plan(&printed, "the order was deleted by mistake")]).await;
    runner.drain().await;
    runner.block("order-is-back", &[&format!("orders show {order}")]).await;
}

async fn fixed_bug(runner: &mut RecipeRunner) {
    let complete = "SELECT order_id FROM orders WHERE status = 'complete' ORDER BY order_id";
    runner
        .execute(&format!(
            "BEGIN;
             UPDATE orders SET fired = (fired::jsonb - 'fulfillment.completed')::json, status = 'ready', complete_at = NULL,
                               fulfilled_at = NULL
             WHERE order_id = ({complete} LIMIT 1);
             UPDATE orders SET conflicted = true WHERE order_id = ({complete} OFFSET 3 LIMIT 1);
             COMMIT"
        ))
        .await;
    runner.block("refold-dry-run", &["refold --since 2h"]).await;
    runner.block("refold-applied", &["refold --since 2h --apply --reason 'release 0.1.1 fixes the completion'"]).await;
    runner.block("refold-proof", &["refold --all"]).await;
    runner.drain().await;
}

async fn restored(runner: &mut RecipeRunner) {
    let backup = Backup::take(&runner.postgres()).await.unwrap();
    runner.play(2, LATER_ORDERS).await;
    runner.drain().await;
    runner.stop_consumers().await;
    backup.restore().await.unwrap();
    runner.block("restored", &["audit"]).await;
    runner.start_and_drain().await;
    runner.block("restored-and-read", &["audit"]).await;

    let middle = runner.value("SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY order_id) FROM orders").await;
    runner.execute(&forget(&format!("order_id > '{middle}'"))).await;
    runner.block("half-is-gone", &["audit"]).await;
    let printed = runner.block("half-dry-run", &["replay --all --list 2"]).await;
    runner.block("half-replayed", &[&plan(&printed, "the database lost rows"), "audit"]).await;
    runner.drain().await;
}

async fn consumer_was_down(runner: &mut RecipeRunner) {
    runner.stop_consumers().await;
    runner.play(3, LATER_ORDERS).await;
    runner.block("consumer-down", &["audit"]).await;
    runner.start_and_drain().await;
    runner.block("consumer-back", &["audit"]).await;
}

async fn dead_letters(runner: &mut RecipeRunner) {
    let [first, second] = HURT;
    runner
        .execute(&format!(
            "ALTER TABLE orders ADD CONSTRAINT bug CHECK (order_id NOT IN ('{first}', '{second}')) NOT VALID"
        ))
        .await;
    for (event, object) in [
        ("5d2c6a5e-2b40-4c1f-9a55-3f1f6a7f2c11", format!(r#"{{"id":"{first}"}}"#)),
        ("5d2c6a5e-2b77-4c1f-9a55-3f1f6a7f2c12", format!(r#"{{"id":"{second}"}}"#)),
        ("5d2c6a5e-2c01-4c1f-9a55-3f1f6a7f2c13", "{}".to_owned()),
    ] {
        send(runner, event, &object).await;
    }
    runner.drain().await;
    let unpublished = "SELECT count(*)::text FROM dead_letters WHERE published_at IS NULL";
    while runner.value(unpublished).await != "0" {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    runner.block("letters", &["dead-letters list"]).await;
    runner.execute("ALTER TABLE orders DROP CONSTRAINT bug").await;
    let why = "--reason 'fixed in 0.1.1'";
    runner
        .block(
            "letters-redriven",
            &[
                "dead-letters redrive --error database",
                &format!("dead-letters redrive --error database --apply {why}"),
                "dead-letters show 5d2c6a5e-2b40-4c1f-9a55-3f1f6a7f2c11",
            ],
        )
        .await;
    let hopeless = "5d2c6a5e-2c01-4c1f-9a55-3f1f6a7f2c13";
    let case = "--reason 'Digital River sent it again with an id (case 4711)'";
    runner
        .block(
            "letters-discarded",
            &[&format!("dead-letters redrive {hopeless}"), &format!("dead-letters discard {hopeless} --apply {case}")],
        )
        .await;
    runner.drain().await;
}

/// Sends an `order.accepted` to ingest.
async fn send(runner: &RecipeRunner, event_id: &str, object: &str) {
    let body = format!(
        r#"{{"id":"{event_id}","type":"order.accepted","liveMode":false,"createdTime":"2026-01-05T08:00:00Z","data":{{"object":{object}}}}}"#
    );
    let target = &runner.world.play.target;
    let secret = runner.world.local.config.ingest.endpoints[0].secrets[0].secret.expose().to_owned();
    let signature = sign::header(&[&secret], now().timestamp(), body.as_bytes());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.post(target.address.clone()).header("content-type", "application/json");
    let answer = request.header(sign::SIGNATURE_HEADER, signature).body(body).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 202);
}

async fn rebuilt(runner: &mut RecipeRunner) {
    runner.execute("UPDATE orders SET conflicted = true WHERE order_id = (SELECT min(order_id) FROM orders)").await;
    runner.block("rebuild", &["rebuild"]).await;
    runner.stop_consumers().await;
    runner.block("rebuild-applied", &["rebuild --apply --reason 'release 0.1.1 fixes the conflicts'"]).await;
    runner.start_and_drain().await;
    runner.block("rebuild-proof", &["audit"]).await;
}
