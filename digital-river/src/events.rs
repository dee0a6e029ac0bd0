//! `GET /events`: the events of the last 30 days.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use riverlock_schemas::{Envelope, Mode};

use crate::{
    client::{Answer, Call, Client, Priority},
    failure::Error,
    page::Page,
};

/// Most events on a page. Source: Digital River, Events API.
pub const PAGE_MAX: usize = 100;

/// Most types in one request: "fewer than 20". Source: Digital River, Events API.
pub const TYPES_MAX: usize = 19;

/// How far back Digital River lists events, in days. Source: Digital River, Events API.
pub const DAYS_BACK: i64 = 30;

/// A listed event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedEvent {
    /// The event id.
    pub id: String,
    /// The event type.
    pub event_type: String,
    /// The mode; `None` if the event does not contain it.
    pub mode: Option<Mode>,
    /// When it was created; `None` if the event does not contain it.
    pub created_time: Option<DateTime<Utc>>,
    /// The bytes of the event in the list, unchanged.
    pub body: Bytes,
}

/// Selection of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Events created at this time or later.
    pub from: DateTime<Utc>,
    /// Events created before this time.
    pub to: DateTime<Utc>,
    /// Types, at most [`TYPES_MAX`]; if empty, all types.
    pub types: Vec<String>,
    /// Only events that follow this one in the list, i.e. older ones.
    pub starting_after: Option<String>,
}

/// One page of events, the newest first.
#[derive(Clone, Debug)]
pub struct Events {
    /// Whether older events follow.
    pub has_more: bool,
    /// The events.
    pub data: Vec<ListedEvent>,
    /// Number of elements that are not events (without id or type). They cannot be compared or stored.
    pub unreadable: usize,
}

/// Lists one page.
///
/// # Errors
/// When Digital River does not answer with a list.
pub async fn list(client: &Client, mode: Mode, query: &Query, priority: Priority) -> Result<Events, Error> {
    let stamp = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let mut call = Call::get("events_list", &["events"])
        .query("createdTime[gte]", stamp(query.from))
        .query("createdTime[lt]", stamp(query.to))
        .query("limit", PAGE_MAX.to_string())
        .priority(priority);
    match query.types.as_slice() {
        [] => {}
        // A group such as `order.*` is only supported by `type`.
        [one] => call = call.query("type", one.as_str()),
        types => call = call.query("types", types.join(",")),
    }
    if let Some(id) = &query.starting_after {
        call = call.query("startingAfter", id.as_str());
    }
    let answer: Answer = client.send(mode, &call).await?;
    let page = Page::read(&answer.body).map_err(|cause| client.unreadable(mode, &call, &answer, cause))?;
    let (mut data, mut unreadable) = (Vec::with_capacity(page.data.len()), 0);
    for element in page.data {
        let body = Bytes::from(String::from(Box::<str>::from(element)));
        match Envelope::parse(&body) {
            Ok(envelope) => data.push(ListedEvent {
                id: envelope.id.clone().into_owned(),
                event_type: envelope.event_type.clone().into_owned(),
                mode: envelope.mode,
                created_time: envelope.created_time,
                body: body.clone(),
            }),
            Err(_) => unreadable += 1,
        }
    }
    Ok(Events { has_more: page.has_more, data, unreadable })
}
