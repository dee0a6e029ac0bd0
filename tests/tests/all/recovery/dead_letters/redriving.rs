//! Redriving and discarding dead letters: each effect once, also with concurrent redrives and crashes.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use riverlock_ledger::{
    DeadReason, Decision, Error, NewEvent, Projection, Record, batch,
    store::{self, Outcome},
};
use riverlock_processor::Orders;
use riverlock_recovery::dead_letters::{
    self, Filter, LetterPosition, LetterState, REDRIVES_MAX, RedriveResult, Request, Run, SkipReason,
};
use riverlock_schemas::{Envelope, events::event_type::is_order_snapshot};
use riverlock_tests::{Database, events, lives, now, outcomes, record, refused, state};
use sqlx::PgConnection;
use tokio::sync::Notify;

use crate::harness::raw::{event, execute, orders};

const TOPIC: &str = "riverlock.raw.test";

fn accepted(id: &str, order: &str) -> Vec<u8> {
    event(id, "order.accepted", &format!(r#"{{"id":"{order}","updatedTime":"2026-01-01T00:00:00Z","currency":"EUR"}}"#))
}

fn request(run: Run) -> Request {
    let (by, why) = ("ada".to_owned(), "the parser was fixed".to_owned());
    Request { by, why, run, include_discarded: false, include_looping: false }
}

/// A database in which records can be made dead letters.
struct DeadLetters {
    database: Database,
    connection: PgConnection,
}

impl DeadLetters {
    async fn new() -> Self {
        let database = Database::create().await.unwrap();
        let mut connection = database.connect().await.unwrap();
        let ids = store::topic_ids(&mut connection, &[TOPIC.to_owned()]).await.unwrap();
        assert_eq!(ids[TOPIC], 1, "the records of the tests are of topic 1");
        Self { database, connection }
    }

    async fn live(&mut self, records: &[Record]) {
        batch::apply(&mut self.connection, &orders(), records, None, now()).await.unwrap();
    }

    /// Stores records as dead letters that PostgreSQL rejected.
    async fn store_dead(&mut self, records: &[Record]) {
        batch::apply(&mut self.connection, &orders(), records, Some(&refused()), now()).await.unwrap();
    }

    async fn open(&mut self) -> Vec<LetterPosition> {
        walk(&mut self.connection, &Filter::default()).await
    }

    async fn redrive(&mut self, place: &LetterPosition, request: &Request) -> RedriveResult {
        dead_letters::redrive(&mut self.connection, &orders(), place, request, now()).await.unwrap()
    }

    async fn redrive_all(&mut self) -> Vec<RedriveResult> {
        let mut came = Vec::new();
        for place in self.open().await {
            came.push(self.redrive(&place, &request(Run::Apply)).await);
        }
        came
    }

    async fn row(&mut self, place: &LetterPosition) -> (String, Option<String>, String) {
        sqlx::query_as(
            "SELECT outcome, reason, event_id FROM event_records WHERE partition = $1 AND record_offset = $2",
        )
        .bind(place.position.partition)
        .bind(place.position.offset)
        .fetch_one(&mut self.connection)
        .await
        .unwrap()
    }

    async fn letters(&mut self) -> Vec<(String, i32)> {
        sqlx::query_as("SELECT state, attempts FROM dead_letters ORDER BY partition, record_offset")
            .fetch_all(&mut self.connection)
            .await
            .unwrap()
    }

    async fn actions(&mut self) -> Vec<(String, String, String, String)> {
        sqlx::query_as("SELECT action, acted_by, why, outcome FROM dead_letter_actions ORDER BY action_id")
            .fetch_all(&mut self.connection)
            .await
            .unwrap()
    }
}

/// The open dead letters that match a filter, read page by page.
async fn walk(connection: &mut PgConnection, filter: &Filter) -> Vec<LetterPosition> {
    let mut cursor = dead_letters::started(connection).await.unwrap();
    let mut places = Vec::new();
    loop {
        let page = dead_letters::next_page(connection, &mut cursor, filter, 7).await.unwrap();
        if page.is_empty() {
            assert_eq!(dead_letters::count(connection, filter).await.unwrap(), places.len() as u64);
            return places;
        }
        places.extend(page);
    }
}

/// The position of a record.
fn place(record: &Record) -> LetterPosition {
    LetterPosition { topic_id: record.topic_id, position: record.position() }
}

/// All events of some orders that the processor handles, as records: two thirds to apply, one third to become dead letters.
fn mixed(seed: u64, count: u64) -> (Vec<Record>, Vec<Record>) {
    let lives = lives(seed, count);
    let concerns = |body: &[u8]| is_order_snapshot(&Envelope::parse(body).unwrap().event_type);
    let bodies = events(&lives).map(|event| &event.body).filter(|body| concerns(body));
    let all: Vec<Record> = bodies.zip(0..).map(|(body, offset)| record(0, offset, body)).collect();
    assert!(all.len() > 50);
    all.into_iter().partition(|record| record.offset % 3 != 0)
}

async fn reference(records: impl IntoIterator<Item = &Record>) -> String {
    let mut letters = DeadLetters::new().await;
    let records: Vec<Record> = records.into_iter().cloned().collect();
    letters.live(&records).await;
    state(&mut letters.connection).await.unwrap()
}

#[tokio::test]
async fn redriven_dead_letters_yield_the_tables_of_directly_applied_records() {
    let (living, dying) = mixed(21, 25);
    let expected = reference(living.iter().chain(&dying)).await;
    let mut letters = DeadLetters::new().await;
    letters.live(&living).await;
    letters.store_dead(&dying).await;
    assert_ne!(
        state(&mut letters.connection).await.unwrap(),
        expected,
        "the dead letters have effects: the test showed nothing"
    );
    let rows = outcomes(&mut letters.connection).await.unwrap();

    let before = (state(&mut letters.connection).await.unwrap(), letters.letters().await);
    let places = letters.open().await;
    assert_eq!(places.len(), dying.len());
    for place in &places {
        let came = letters.redrive(place, &request(Run::Dry)).await;
        assert!(matches!(came, RedriveResult::Settled { outcome: Outcome::Applied, .. }), "{came:?}");
    }
    assert_eq!(
        (state(&mut letters.connection).await.unwrap(), letters.letters().await),
        before,
        "a dry run does nothing"
    );
    assert_eq!(outcomes(&mut letters.connection).await.unwrap(), rows);
    assert!(letters.actions().await.is_empty());

    let came = letters.redrive_all().await;
    assert_eq!(came.len(), dying.len());
    assert_eq!(state(&mut letters.connection).await.unwrap(), expected);
    let after = outcomes(&mut letters.connection).await.unwrap();
    assert_eq!(after.values().sum::<i64>(), rows.values().sum::<i64>(), "every record still has one outcome");
    assert!(!after.contains_key("dead"), "{after:?}");
    assert!(letters.letters().await.iter().all(|letter| *letter == ("redriven".to_owned(), 2)));
    let actions = letters.actions().await;
    let done = ("redrive".to_owned(), "ada".to_owned(), "the parser was fixed".to_owned(), "applied".to_owned());
    assert_eq!(actions, vec![done; dying.len()]);
    let again = letters.redrive(&places[0], &request(Run::Apply)).await;
    assert_eq!(again, RedriveResult::Skipped(SkipReason::Redriven));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_redrives_and_live_duplicates_have_each_effect_once() {
    let (living, dying) = mixed(22, 25);
    let expected = reference(living.iter().chain(&dying)).await;
    let mut letters = DeadLetters::new().await;
    letters.live(&living[..living.len() / 2]).await;
    letters.store_dead(&dying).await;
    let places = letters.open().await;

    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (config, places) = (letters.database.config.clone(), places.clone());
        tasks.spawn(async move {
            let mut connection = config.connect().await.unwrap();
            let mut settled = 0;
            for place in &places {
                let came = dead_letters::redrive(&mut connection, &orders(), place, &request(Run::Apply), now()).await;
                match came.unwrap() {
                    RedriveResult::Settled { outcome: Outcome::Applied, .. } => settled += 1,
                    RedriveResult::Skipped(SkipReason::Redriven) => {}
                    other => panic!("{other:?}"),
                }
            }
            settled
        });
    }
    let config = letters.database.config.clone();
    // The rest of the live traffic, and a duplicate of every dead letter in another partition.
    let again = dying.iter().map(|dead| record(1, dead.offset, &dead.payload));
    let traffic: Vec<Record> = living[living.len() / 2..].iter().cloned().chain(again).collect();
    tasks.spawn(async move {
        let mut connection = config.connect().await.unwrap();
        for batch in traffic.chunks(5) {
            while let Err(error) = batch::apply(&mut connection, &orders(), batch, None, now()).await {
                assert_eq!(error.disposition(), riverlock_ledger::error::Disposition::Retry, "{error}");
            }
        }
        0
    });
    let settled: usize = tasks.join_all().await.into_iter().sum();
    assert_eq!(settled, dying.len(), "one of two attempts had the effect");
    assert_eq!(state(&mut letters.connection).await.unwrap(), expected);
    assert_eq!(letters.actions().await.len(), dying.len());
    let rows = outcomes(&mut letters.connection).await.unwrap();
    let (all, again) = (living.len() + dying.len(), dying.len());
    assert_eq!(rows["applied"], i64::try_from(all).unwrap(), "{rows:?}");
    assert_eq!(rows["duplicate"], i64::try_from(again).unwrap(), "{rows:?}");
}

/// Applies events, and then never returns, so that the transaction stays open.
struct Hanging(Orders, Arc<Notify>);

impl Projection for Hanging {
    type Event = <Orders as Projection>::Event;
    type Applied = <Orders as Projection>::Applied;

    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn decide(&self, envelope: &Envelope<'_>, body: &[u8]) -> Decision<Self::Event> {
        self.0.decide(envelope, body)
    }

    async fn apply(
        &self,
        connection: &mut PgConnection,
        fresh: Vec<NewEvent<Self::Event>>,
        now: DateTime<Utc>,
    ) -> Result<Self::Applied, Error> {
        self.0.apply(connection, fresh, now).await?;
        self.1.notify_one();
        std::future::pending().await
    }
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the task is killed")]
async fn a_redrive_killed_before_its_commit_has_no_effect_and_the_next_one_has_it_once() {
    let mut letters = DeadLetters::new().await;
    let dying = [record(0, 0, &accepted("e", "o"))];
    letters.store_dead(&dying).await;
    let reached = Arc::new(Notify::new());
    let task = {
        let (config, place) = (letters.database.config.clone(), place(&dying[0]));
        let projection = Hanging(orders(), Arc::clone(&reached));
        tokio::spawn(async move {
            let mut connection = config.connect().await.unwrap();
            dead_letters::redrive(&mut connection, &projection, &place, &request(Run::Apply), now()).await
        })
    };
    reached.notified().await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());

    // Waits for the locks of the aborted task, which end with its connection.
    let came = letters.redrive_all().await;
    assert_eq!(came, [RedriveResult::Settled { outcome: Outcome::Applied, reason: None }]);
    assert_eq!(state(&mut letters.connection).await.unwrap(), reference(&dying).await);
    assert_eq!(letters.actions().await.len(), 1);
}

/// Cannot apply any event: it cannot read it, or PostgreSQL rejects its statement.
struct Broken {
    understands: bool,
}

impl Projection for Broken {
    type Event = String;
    type Applied = ();

    fn name(&self) -> &'static str {
        "broken"
    }

    fn decide(&self, envelope: &Envelope<'_>, _body: &[u8]) -> Decision<String> {
        match self.understands {
            true => Decision::Apply(envelope.id.to_string()),
            false => Decision::Dead(DeadReason { reason: "shape", detail: "still not\0 understood".to_owned() }),
        }
    }

    async fn apply(
        &self,
        connection: &mut PgConnection,
        _fresh: Vec<NewEvent<String>>,
        _now: DateTime<Utc>,
    ) -> Result<(), Error> {
        sqlx::query("INSERT INTO topics (name) VALUES ('half an effect')").execute(&mut *connection).await?;
        sqlx::query("SELECT 1 / 0").execute(&mut *connection).await?;
        Ok(())
    }
}

#[tokio::test]
async fn dead_letters_redriven_too_often_are_skipped_unless_forced() {
    let mut letters = DeadLetters::new().await;
    let dying = [record(0, 0, &accepted("e", "o"))];
    letters.store_dead(&dying).await;
    sqlx::query("UPDATE dead_letters SET published_at = now()").execute(&mut letters.connection).await.unwrap();
    let place = place(&dying[0]);
    for attempts in 2..=REDRIVES_MAX + 1 {
        let projection = Broken { understands: attempts % 2 == 0 };
        let came = dead_letters::redrive(&mut letters.connection, &projection, &place, &request(Run::Apply), now())
            .await
            .unwrap();
        let reason = if attempts % 2 == 0 { "database" } else { "shape" };
        let RedriveResult::Dead { reason: found, attempts: count, .. } = came else { panic!("{came:?}") };
        assert_eq!((found.as_str(), count), (reason, attempts));
        assert_eq!(letters.row(&place).await, ("dead".to_owned(), Some(reason.to_owned()), "e".to_owned()));
    }
    let half: i64 = sqlx::query_scalar("SELECT count(*) FROM topics WHERE name = 'half an effect'")
        .fetch_one(&mut letters.connection)
        .await
        .unwrap();
    assert_eq!(half, 0, "the rejected transaction left nothing");
    let published: Option<DateTime<Utc>> =
        sqlx::query_scalar("SELECT published_at FROM dead_letters").fetch_one(&mut letters.connection).await.unwrap();
    assert_eq!(published, None, "each failed redrive is published to the topic of dead letters");

    let guarded = letters.redrive(&place, &request(Run::Apply)).await;
    assert_eq!(guarded, RedriveResult::Skipped(SkipReason::Looping(REDRIVES_MAX)));
    assert_eq!(letters.letters().await, [("open".to_owned(), REDRIVES_MAX + 1)]);
    let forced = Request { include_looping: true, ..request(Run::Apply) };
    let came = letters.redrive(&place, &forced).await;
    assert_eq!(came, RedriveResult::Settled { outcome: Outcome::Applied, reason: None });
    let actions: Vec<String> = letters.actions().await.into_iter().map(|action| action.3).collect();
    assert_eq!(actions, ["dead", "dead", "dead", "applied"]);
    let history = dead_letters::history(&mut letters.connection, &place).await.unwrap();
    assert_eq!(history[0].previous_detail, "division by zero", "the first reason is kept");
}

#[tokio::test]
async fn a_walk_visits_each_dead_letter_once_and_the_next_one_starts_with_the_rest() {
    let mut letters = DeadLetters::new().await;
    let dying: Vec<Record> = (0..20).map(|i| record(0, i, &accepted(&format!("e{i}"), "o"))).collect();
    letters.store_dead(&dying).await;
    let filter = Filter::default();
    let mut cursor = dead_letters::started(&mut letters.connection).await.unwrap();
    let mut met = Vec::new();
    // Stopped after twelve of twenty.
    for _ in 0..3 {
        for place in dead_letters::next_page(&mut letters.connection, &mut cursor, &filter, 4).await.unwrap() {
            let broken = Broken { understands: false };
            dead_letters::redrive(&mut letters.connection, &broken, &place, &request(Run::Apply), now()).await.unwrap();
            met.push(place.position.offset);
        }
    }
    assert_eq!(met, (0..12).collect::<Vec<_>>());
    let rest: Vec<i64> = letters.open().await.into_iter().map(|place| place.position.offset).collect();
    assert_eq!(rest, (12..20).chain(0..12).collect::<Vec<_>>());
}

#[tokio::test]
async fn filters_select_the_matching_dead_letters() {
    let mut letters = DeadLetters::new().await;
    let other = String::from_utf8(accepted("e2", "o2")).unwrap().replace("order.accepted", "order.complete");
    letters.store_dead(&[record(0, 0, &accepted("e1", "o1")), record(0, 1, other.as_bytes())]).await;
    letters.live(&[record(0, 2, b"not json"), record(0, 3, &accepted("e3", "o3"))]).await;
    sqlx::query("UPDATE dead_letters SET created_at = '2026-01-01T00:00:00Z' WHERE record_offset = 0")
        .execute(&mut letters.connection)
        .await
        .unwrap();
    let noon = DateTime::parse_from_rfc3339("2026-01-01T12:00:00Z").unwrap().to_utc();
    let text = |text: &str| Some(text.to_owned());
    for (filter, expected) in [
        (Filter::default(), vec![0, 1, 2]),
        (Filter { reason: text("database"), ..Filter::default() }, vec![0, 1]),
        (Filter { reason: text("envelope"), ..Filter::default() }, vec![2]),
        (Filter { topic: text(TOPIC), ..Filter::default() }, vec![0, 1, 2]),
        (Filter { topic: text("another"), ..Filter::default() }, vec![]),
        (Filter { event_type: text("order.complete"), ..Filter::default() }, vec![1]),
        (Filter { order_id: text("o1"), ..Filter::default() }, vec![0]),
        (Filter { since: Some(noon), ..Filter::default() }, vec![1, 2]),
        (Filter { until: Some(noon), ..Filter::default() }, vec![0]),
        (Filter { until: Some(noon), order_id: text("o2"), ..Filter::default() }, vec![]),
    ] {
        let mut walked: Vec<i64> =
            walk(&mut letters.connection, &filter).await.into_iter().map(|place| place.position.offset).collect();
        walked.sort_unstable();
        let listed = dead_letters::list(&mut letters.connection, &LetterState::ALL, &filter, None, 100).await.unwrap();
        let mut listed: Vec<i64> = listed.iter().map(|letter| letter.offset).collect();
        listed.sort_unstable();
        assert_eq!((&walked, &listed), (&expected, &expected), "{filter:?}");
    }
    let first =
        dead_letters::list(&mut letters.connection, &LetterState::ALL, &Filter::default(), None, 1).await.unwrap();
    assert_eq!(first[0].event_id, "e1", "the oldest comes first");
}

#[tokio::test]
async fn a_formerly_unreadable_record_gets_the_right_outcome_among_records_of_its_event() {
    let other = accepted("e", "o").iter().map(|byte| if *byte == b'E' { b'A' } else { *byte }).collect::<Vec<u8>>();
    for (live, outcome) in [(None, "applied"), (Some(accepted("e", "o")), "duplicate"), (Some(other), "conflict")] {
        let mut letters = DeadLetters::new().await;
        let dying = record(0, 0, &accepted("e", "o"));
        letters.store_dead(std::slice::from_ref(&dying)).await;
        // As written by a version that could not read the envelope.
        let former = "WITH empty AS (INSERT INTO event_types (name) VALUES ('') RETURNING type_id),
                 envelope AS (INSERT INTO event_reasons (name) VALUES ('envelope') RETURNING reason_id),
                 letter AS (UPDATE dead_letters SET event_key = event_key_of('unreadable:x'))
             UPDATE events SET event_key = event_key_of('unreadable:x'), type_id = empty.type_id, order_id = NULL,
                               reason_id = envelope.reason_id FROM empty, envelope";
        execute(&mut letters.connection, former).await;
        let live: Vec<Record> = live.iter().map(|body| record(1, 0, body)).collect();
        letters.live(&live).await;
        letters.redrive_all().await;
        let row = letters.row(&place(&dying)).await;
        assert_eq!(row, (outcome.to_owned(), None, "e".to_owned()));
        let expected = reference(live.iter().chain([&dying])).await;
        assert_eq!(state(&mut letters.connection).await.unwrap(), expected, "{outcome}");
    }
}

#[tokio::test]
async fn both_bodies_of_a_conflict_count_whichever_was_a_dead_letter() {
    let one = record(0, 0, &accepted("e", "o"));
    let two = event("e", "order.accepted", r#"{"id":"o","updatedTime":"2026-01-02T00:00:00Z","currency":"USD"}"#);
    let two = record(0, 1, &two);
    let expected = reference([&one, &two]).await;
    assert!(expected.contains(r#""conflicted": true"#), "{expected}");
    for (first_is_dead, second_is_dead) in [(true, false), (false, true), (true, true)] {
        for order in [[0, 1], [1, 0]] {
            let mut letters = DeadLetters::new().await;
            for (record, dies) in [(&one, first_is_dead), (&two, second_is_dead)] {
                match dies {
                    true => letters.store_dead(std::slice::from_ref(record)).await,
                    false => letters.live(std::slice::from_ref(record)).await,
                }
            }
            let positions = [&one, &two].map(place);
            for index in order {
                letters.redrive(&positions[index], &request(Run::Apply)).await;
            }
            let what = format!("{first_is_dead} {second_is_dead} {order:?}");
            assert_eq!(state(&mut letters.connection).await.unwrap(), expected, "{what}");
            let rows = outcomes(&mut letters.connection).await.unwrap();
            assert_eq!(rows, BTreeMap::from([("applied".to_owned(), 1), ("conflict".to_owned(), 1)]), "{what}");
        }
    }
}

#[tokio::test]
async fn a_discarded_dead_letter_is_redriven_only_on_request() {
    let mut letters = DeadLetters::new().await;
    let dying = [record(0, 0, &accepted("e1", "o")), record(0, 1, &accepted("e2", "o"))];
    letters.store_dead(&dying).await;
    let places = dying.each_ref().map(place);
    let dry = dead_letters::discard(&mut letters.connection, &places[0], &request(Run::Dry)).await.unwrap();
    assert_eq!((dry, letters.open().await.len()), (Ok(()), 2));
    let done = dead_letters::discard(&mut letters.connection, &places[0], &request(Run::Apply)).await.unwrap();
    assert_eq!(done, Ok(()));
    assert_eq!(letters.open().await, [places[1].clone()]);
    assert_eq!(letters.letters().await[0], ("discarded".to_owned(), 1));
    assert_eq!(letters.row(&places[0]).await.0, "dead");
    let again = dead_letters::discard(&mut letters.connection, &places[0], &request(Run::Apply)).await.unwrap();
    assert_eq!(again, Err(SkipReason::Discarded));
    assert_eq!(letters.actions().await.len(), 1);

    assert_eq!(letters.redrive(&places[0], &request(Run::Apply)).await, RedriveResult::Skipped(SkipReason::Discarded));
    let named = Request { include_discarded: true, ..request(Run::Apply) };
    let came = letters.redrive(&places[0], &named).await;
    assert_eq!(came, RedriveResult::Settled { outcome: Outcome::Applied, reason: None });
    let late = dead_letters::discard(&mut letters.connection, &places[0], &request(Run::Apply)).await.unwrap();
    assert_eq!(late, Err(SkipReason::Redriven));
}

#[tokio::test]
async fn a_manipulated_dead_letter_is_not_redriven() {
    let mut letters = DeadLetters::new().await;
    let dying = record(0, 0, &accepted("e", "o"));
    letters.store_dead(std::slice::from_ref(&dying)).await;
    sqlx::query("UPDATE dead_letters SET payload = $1")
        .bind(accepted("e", "another order"))
        .execute(&mut letters.connection)
        .await
        .unwrap();
    let came = letters.redrive(&place(&dying), &request(Run::Apply)).await;
    assert!(matches!(came, RedriveResult::Skipped(SkipReason::Contradicted(_))), "{came:?}");
    let unknown = LetterPosition { topic_id: 1, position: record(9, 9, b"").position() };
    assert_eq!(letters.redrive(&unknown, &request(Run::Apply)).await, RedriveResult::Skipped(SkipReason::Unknown));
    assert!(letters.actions().await.is_empty());
}
