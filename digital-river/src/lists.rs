//! `GET /orders` and `GET /files`: lists that are independent of events, and go back further than 30 days.

use chrono::{DateTime, SecondsFormat, Utc};
use riverlock_schemas::Mode;
use serde_json::Value;

use crate::{
    client::{Call, Client, Priority},
    failure::Error,
    page::Page,
};

/// Most objects on a page. Source: Digital River, "Lists".
pub const PAGE_MAX: usize = 100;

/// Kind of list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// Orders, by the time at which they reached a state.
    Orders {
        /// The state, as Digital River's filters name it, for example `complete`.
        state: OrderState,
    },
    /// Documents, by the time at which they were created.
    Documents {
        /// The purpose.
        purpose: Purpose,
    },
}

/// A state by whose time orders can be listed. Source: Digital River, Orders API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are Digital River's")]
pub enum OrderState {
    Accepted,
    Fulfilled,
    Complete,
    Cancelled,
    Blocked,
}

impl OrderState {
    /// All values.
    pub const ALL: [Self; 5] = [Self::Accepted, Self::Fulfilled, Self::Complete, Self::Cancelled, Self::Blocked];

    /// Digital River's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Fulfilled => "fulfilled",
            Self::Complete => "complete",
            Self::Cancelled => "cancelled",
            Self::Blocked => "blocked",
        }
    }

    fn bounds(self) -> (&'static str, &'static str) {
        match self {
            Self::Accepted => ("accepted[gte]", "accepted[lt]"),
            Self::Fulfilled => ("fulfilled[gte]", "fulfilled[lt]"),
            Self::Complete => ("complete[gte]", "complete[lt]"),
            Self::Cancelled => ("cancelled[gte]", "cancelled[lt]"),
            Self::Blocked => ("blocked[gte]", "blocked[lt]"),
        }
    }
}

/// The purpose of a document. Source: Digital River, Files API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are Digital River's")]
pub enum Purpose {
    Invoice,
    CreditMemo,
}

impl Purpose {
    /// All values.
    pub const ALL: [Self; 2] = [Self::Invoice, Self::CreditMemo];

    /// Digital River's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invoice => "customer_invoice",
            Self::CreditMemo => "customer_credit_memo",
        }
    }
}

/// A page of ids, the newest object first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Whether older objects follow.
    pub has_more: bool,
    /// The ids.
    pub data: Vec<String>,
}

/// Lists one page of the objects whose time is at or after `from` and before `to`.
///
/// # Errors
/// When Digital River does not answer with a list of objects with ids.
pub async fn list(
    client: &Client,
    mode: Mode,
    wanted: List,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
    after: Option<&str>,
    priority: Priority,
) -> Result<Ids, Error> {
    let stamp = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let mut call = match wanted {
        List::Orders { state } => {
            let (gte, lt) = state.bounds();
            Call::get("orders_list", &["orders"]).query(gte, stamp(from)).query(lt, stamp(to))
        }
        List::Documents { purpose } => Call::get("files_list", &["files"])
            .query("purpose", purpose.as_str())
            .query("createdTime[gte]", stamp(from))
            .query("createdTime[lt]", stamp(to)),
    };
    call = call.query("limit", PAGE_MAX.to_string()).priority(priority);
    if let Some(id) = after {
        call = call.query("startingAfter", id);
    }
    let answer = client.send(mode, &call).await?;
    let unreadable = |cause: String| client.unreadable(mode, &call, &answer, cause);
    let page = Page::read(&answer.body).map_err(unreadable)?;
    let id = |element: &serde_json::value::RawValue| {
        let value: Value = serde_json::from_str(element.get()).map_err(|error| error.to_string())?;
        value
            .get("id")
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| "a listed object has no `id`".to_owned())
    };
    let data = page.data.iter().map(|element| id(element)).collect::<Result<_, String>>().map_err(unreadable)?;
    Ok(Ids { has_more: page.has_more, data })
}
