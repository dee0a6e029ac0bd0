//! Read model of dead letters for the CLI. Bodies are returned only by [`body`].

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use riverlock_schemas::kafka::record::Position;
use serde::Serialize;
use sqlx::PgConnection;

use super::{LetterPosition, LetterState};
use riverlock_ledger::{Error, store::event_key};

/// Selects dead letters. A field that is `None` does not restrict the selection.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// The reason for which the record could not be applied.
    pub reason: Option<String>,
    /// The topic of the record.
    pub topic: Option<String>,
    /// The type of the event.
    pub event_type: Option<String>,
    /// The order of the event.
    pub order_id: Option<String>,
    /// Stored at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Stored before this time.
    pub until: Option<DateTime<Utc>>,
}

/// A dead letter, without its body.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the field names are self-explanatory")]
pub struct LetterView {
    /// For a record of an earlier Kafka cluster: `<cluster id>/<topic>`.
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub event_id: String,
    pub event_type: String,
    pub order_id: Option<String>,
    pub live_mode: Option<bool>,
    pub state: String,
    /// The outcome of its record.
    pub outcome: String,
    pub reason: String,
    pub detail: String,
    pub attempts: i32,
    pub attempted_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    /// When it was published to the dead-letter topic.
    pub published_at: Option<DateTime<Utc>>,
    pub body_sha256: String,
    pub body_bytes: i64,
}

impl LetterView {
    /// Position of its record.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { topic: self.topic.clone(), partition: self.partition, offset: self.offset }
    }
}

/// One action on a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the field names are self-explanatory")]
pub struct ActionView {
    pub action: String,
    pub acted_at: DateTime<Utc>,
    pub acted_by: String,
    pub why: String,
    /// The record's outcome after the action.
    pub outcome: String,
    pub reason: Option<String>,
    pub detail: Option<String>,
    pub previous_state: String,
    pub previous_reason: String,
    pub previous_detail: String,
}

/// Header names and body of a dead letter's record, unchanged.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the field names are self-explanatory")]
pub struct Body {
    pub header_names: Vec<String>,
    pub payload: Vec<u8>,
}

/// Position in a walk through the open dead letters.
#[derive(Clone, Debug)]
pub struct Cursor {
    started_at: DateTime<Utc>,
    last: (DateTime<Utc>, i16, i32, i64),
}

/// Returns dead letters in the given states, oldest first, starting after the one at `after` if it is given.
pub async fn list(
    connection: &mut PgConnection,
    states: &[LetterState],
    filter: &Filter,
    after: Option<&Position>,
    limit: i64,
) -> Result<Vec<LetterView>, Error> {
    let rows = sqlx::query_as!(
        LetterView,
        r#"-- dead_letters_list
           SELECT full_name AS "topic!", partition AS "partition!", record_offset AS "offset!", event_id AS "event_id!",
                  event_type AS "event_type!", order_id, live_mode, state, outcome AS "outcome!", d.reason, detail, attempts, attempted_at, d.created_at, published_at,
                  encode(body_sha256, 'hex') AS "body_sha256!", octet_length(payload)::bigint AS "body_bytes!"
           FROM dead_letters d JOIN topic_names USING (topic_id) JOIN event_records e USING (topic_id, partition, record_offset)
           -- In two halves, each of which has an index.
           WHERE ((e.event_key = d.event_key AND e.outcome_code IN ('a', 'i', 'x'))
               OR (e.event_key = d.event_key AND e.outcome_code IN ('d', 'c')))
             AND state = ANY($1) AND ($2::text IS NULL OR d.reason = $2) AND ($3::text IS NULL OR name = $3 OR full_name = $3)
             AND ($4::text IS NULL OR event_type = $4) AND ($5::text IS NULL OR order_id = $5)
             AND ($6::timestamptz IS NULL OR d.created_at >= $6) AND ($7::timestamptz IS NULL OR d.created_at < $7)
             AND ($8::text IS NULL OR (d.created_at, d.topic_id, d.partition, d.record_offset) >
                  (SELECT a.created_at, a.topic_id, a.partition, a.record_offset
                   FROM dead_letters a JOIN topics t USING (topic_id)
                   WHERE t.name = $8 AND a.partition = $9 AND a.record_offset = $10))
           ORDER BY d.created_at, topic_id, partition, record_offset LIMIT $11"#,
        &states.iter().map(|state| state.as_str()).collect::<Vec<_>>() as _,
        filter.reason,
        filter.topic,
        filter.event_type,
        filter.order_id,
        filter.since,
        filter.until,
        after.map(|after| after.topic.as_str()),
        after.map(|after| after.partition),
        after.map(|after| after.offset),
        limit
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Returns the dead letters at a position, or of an event.
pub async fn find(
    connection: &mut PgConnection,
    position: Option<&Position>,
    event_id: Option<&str>,
) -> Result<Vec<(LetterPosition, LetterView)>, Error> {
    let rows = sqlx::query!(
        r#"-- dead_letters_find
           SELECT topic_id AS "topic_id!", full_name AS "topic!", partition AS "partition!", record_offset AS "offset!",
                  event_id AS "event_id!", event_type AS "event_type!", order_id, live_mode, state, outcome AS "outcome!",
                  d.reason, detail, attempts, attempted_at, d.created_at, published_at,
                  encode(body_sha256, 'hex') AS "body_sha256!", octet_length(payload)::bigint AS "body_bytes!"
           FROM (
               SELECT topic_id, $2::integer AS partition, $3::bigint AS record_offset FROM topic_names WHERE full_name = $1
               -- In two halves, each of which has an index.
               UNION SELECT topic_id, partition, record_offset FROM events
                     WHERE event_key = $4 AND outcome_code IN ('a', 'i', 'x')
               UNION SELECT topic_id, partition, record_offset FROM events
                     WHERE event_key = $4 AND outcome_code IN ('d', 'c')
           ) place
           JOIN dead_letters d USING (topic_id, partition, record_offset) JOIN topic_names USING (topic_id)
           JOIN event_records e USING (topic_id, partition, record_offset)
           WHERE ((e.event_key = d.event_key AND e.outcome_code IN ('a', 'i', 'x'))
               OR (e.event_key = d.event_key AND e.outcome_code IN ('d', 'c')))
           ORDER BY d.created_at, topic_id, partition, record_offset"#,
        position.map(|position| position.topic.as_str()),
        position.map(|position| position.partition),
        position.map(|position| position.offset),
        event_id.map(event_key::of)
    )
    .fetch_all(connection)
    .await?;
    let letters = rows.into_iter().map(|row| {
        let view = LetterView {
            topic: row.topic,
            partition: row.partition,
            offset: row.offset,
            event_id: row.event_id,
            event_type: row.event_type,
            order_id: row.order_id,
            live_mode: row.live_mode,
            state: row.state,
            outcome: row.outcome,
            reason: row.reason,
            detail: row.detail,
            attempts: row.attempts,
            attempted_at: row.attempted_at,
            created_at: row.created_at,
            published_at: row.published_at,
            body_sha256: row.body_sha256,
            body_bytes: row.body_bytes,
        };
        (LetterPosition { topic_id: row.topic_id, position: view.position() }, view)
    });
    Ok(letters.collect())
}

/// Returns the actions on a dead letter, oldest first.
pub async fn history(connection: &mut PgConnection, letter: &LetterPosition) -> Result<Vec<ActionView>, Error> {
    let rows = sqlx::query_as!(
        ActionView,
        "-- dead_letter_actions_of
         SELECT action, acted_at, acted_by, why, outcome, reason, detail, previous_state, previous_reason, previous_detail
         FROM dead_letter_actions WHERE topic_id = $1 AND partition = $2 AND record_offset = $3 ORDER BY action_id",
        letter.topic_id,
        letter.position.partition,
        letter.position.offset
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Returns the body of a dead letter's record.
pub async fn body(connection: &mut PgConnection, letter: &LetterPosition) -> Result<Option<Body>, Error> {
    let row = sqlx::query_as!(
        Body,
        "-- dead_letters_body
         SELECT header_names, payload FROM dead_letters WHERE topic_id = $1 AND partition = $2 AND record_offset = $3",
        letter.topic_id,
        letter.position.partition,
        letter.position.offset
    );
    Ok(row.fetch_optional(connection).await?)
}

/// Begins a walk through the open dead letters, starting with the one whose last attempt is oldest. Letters attempted
/// after the walk began are left out, so each is redriven at most once per walk. A walk that starts again after an
/// interruption first reaches the letters that the previous one did not.
pub async fn started(connection: &mut PgConnection) -> Result<Cursor, Error> {
    // `attempted_at` is set by the database's clock.
    let now = sqlx::query_scalar!(r#"SELECT now() AS "now!""#).fetch_one(connection).await?;
    Ok(Cursor { started_at: now, last: (DateTime::UNIX_EPOCH, 0, 0, -1) })
}

/// Returns the next page of a walk; an empty page ends it.
pub async fn next_page(
    connection: &mut PgConnection,
    cursor: &mut Cursor,
    filter: &Filter,
    limit: i64,
) -> Result<Vec<LetterPosition>, Error> {
    let (attempted_at, topic_id, partition, offset) = cursor.last;
    let rows = sqlx::query!(
        r#"-- dead_letters_walk
           SELECT topic_id AS "topic_id!", full_name AS "topic!", partition AS "partition!", record_offset AS "offset!",
                  attempted_at
           FROM dead_letters d JOIN topic_names USING (topic_id) JOIN event_records e USING (topic_id, partition, record_offset)
           -- In two halves, each of which has an index.
           WHERE ((e.event_key = d.event_key AND e.outcome_code IN ('a', 'i', 'x'))
               OR (e.event_key = d.event_key AND e.outcome_code IN ('d', 'c')))
             AND state = 'open' AND attempted_at < $1
             AND (attempted_at, d.topic_id, d.partition, d.record_offset) > ($2, $3, $4, $5)
             AND ($6::text IS NULL OR d.reason = $6) AND ($7::text IS NULL OR name = $7 OR full_name = $7)
             AND ($8::text IS NULL OR event_type = $8) AND ($9::text IS NULL OR order_id = $9)
             AND ($10::timestamptz IS NULL OR d.created_at >= $10) AND ($11::timestamptz IS NULL OR d.created_at < $11)
           ORDER BY attempted_at, d.topic_id, d.partition, d.record_offset LIMIT $12"#,
        cursor.started_at,
        attempted_at,
        topic_id,
        partition,
        offset,
        filter.reason,
        filter.topic,
        filter.event_type,
        filter.order_id,
        filter.since,
        filter.until,
        limit
    )
    .fetch_all(connection)
    .await?;
    if let Some(row) = rows.last() {
        cursor.last = (row.attempted_at, row.topic_id, row.partition, row.offset);
    }
    let positions = rows.into_iter().map(|row| LetterPosition {
        topic_id: row.topic_id,
        position: Position { topic: row.topic, partition: row.partition, offset: row.offset },
    });
    Ok(positions.collect())
}

/// Counts the open dead letters that a filter selects.
pub async fn count(connection: &mut PgConnection, filter: &Filter) -> Result<u64, Error> {
    let count = sqlx::query_scalar!(
        r#"-- dead_letters_count
           SELECT count(*) AS "count!"
           FROM dead_letters d JOIN topic_names USING (topic_id) JOIN event_records e USING (topic_id, partition, record_offset)
           -- In two halves, each of which has an index.
           WHERE ((e.event_key = d.event_key AND e.outcome_code IN ('a', 'i', 'x'))
               OR (e.event_key = d.event_key AND e.outcome_code IN ('d', 'c')))
             AND state = 'open' AND ($1::text IS NULL OR d.reason = $1) AND ($2::text IS NULL OR name = $2 OR full_name = $2)
             AND ($3::text IS NULL OR event_type = $3) AND ($4::text IS NULL OR order_id = $4)
             AND ($5::timestamptz IS NULL OR d.created_at >= $5) AND ($6::timestamptz IS NULL OR d.created_at < $6)"#,
        filter.reason,
        filter.topic,
        filter.event_type,
        filter.order_id,
        filter.since,
        filter.until
    );
    Ok(u64::try_from(count.fetch_one(connection).await?).unwrap_or_default())
}

/// Dead letters by state, age of the oldest open one by the database's clock, and the number of conflicts.
pub(super) struct Counts {
    pub(super) by_state: BTreeMap<String, i64>,
    pub(super) oldest_open_seconds: Option<f64>,
    pub(super) conflicts: i64,
}

pub(super) async fn counts(connection: &mut PgConnection) -> Result<Counts, Error> {
    let states = sqlx::query!(
        r#"-- dead_letters_by_state
           SELECT state, count(*) AS "count!",
                  extract(epoch FROM now() - min(created_at))::double precision AS "oldest_seconds!"
           FROM dead_letters GROUP BY state"#
    )
    .fetch_all(&mut *connection)
    .await?;
    let conflicts = sqlx::query_scalar!(
        r#"-- events_conflicts_count
           SELECT count(*) AS "count!" FROM events WHERE outcome_code = 'c'"#
    );
    let conflicts = conflicts.fetch_one(connection).await?;
    let open = states.iter().find(|row| row.state == LetterState::Open.as_str());
    let oldest_open_seconds = open.map(|row| row.oldest_seconds);
    Ok(Counts {
        by_state: states.into_iter().map(|row| (row.state, row.count)).collect(),
        oldest_open_seconds,
        conflicts,
    })
}
