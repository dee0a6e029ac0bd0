//! Sends one leased report, or reads its order's fulfillments back, and decides what follows.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use riverlock_digital_river::{Client, Error, fulfillments};
use riverlock_runtime::Clock;

use super::queue::{End, LeasedReport, Request};
use crate::decide::{Next, ReadBack, after_read_back, after_report, backoff};

/// Longest error text that is stored, in characters.
const ERROR_CHARS_MAX: usize = 1_000;

/// Sends the request that a leased report needs.
pub(super) async fn exchange(client: &Client, clock: &dyn Clock, leased: LeasedReport) -> End {
    match leased.to_send {
        true => report(client, clock, leased).await,
        false => read_back(client, clock, leased).await,
    }
}

async fn report(client: &Client, clock: &dyn Clock, leased: LeasedReport) -> End {
    let answer = fulfillments::create(client, leased.mode, &leased.report).await;
    let at = clock.now();
    match answer {
        Ok((fulfillment, request_id)) => {
            let request =
                Request { operation: "report", at, status: Some(201), request_id, result: "reported".to_owned() };
            end(leased, request, Next::Reported { fulfillment_id: fulfillment.id }, None)
        }
        Err(error) => {
            let next = after_report(&error, leased.attempts);
            end(leased, failed("report", at, &error), next, Some(&error))
        }
    }
}

async fn read_back(client: &Client, clock: &dyn Clock, leased: LeasedReport) -> End {
    let answer = fulfillments::of_order(client, leased.mode, &leased.report.order_id).await;
    let at = clock.now();
    let (found, request_id) = match answer {
        Ok(found) => found,
        Err(error) => {
            let next = Next::ReadBack(backoff(leased.read_backs));
            return end(leased, failed("read_back", at, &error), next, Some(&error));
        }
    };
    let next = after_read_back(&ReadBack {
        report_id: &leased.report.report_id,
        lines: &leased.report.lines,
        found: &found,
        others: &leased.others,
        read_backs: leased.read_backs,
        refused: leased.last_code.is_some(),
        sent_before: leased.attempts > 1,
    });
    let result = format!("{} fulfillments of the order: {}", found.len(), name(&next));
    let request = Request { operation: "read_back", at, status: Some(200), request_id, result };
    end(leased, request, next, None)
}

fn failed(operation: &'static str, at: DateTime<Utc>, error: &Error) -> Request {
    Request {
        operation,
        at,
        status: error.status(),
        request_id: error.request_id.as_deref().map(clean),
        result: clean(&error.to_string()),
    }
}

fn end(leased: LeasedReport, request: Request, next: Next, error: Option<&Error>) -> End {
    let now = request.at;
    let later = |wait: Duration| now + TimeDelta::from_std(wait).unwrap_or(TimeDelta::zero());
    let text = error.map(|error| clean(&error.to_string()));
    // The code of a rejection stays with the report until it is read back; it is cleared when the report is sent again.
    let conflict = error.filter(|error| error.status() == Some(409)).map(|error| clean(error.code()));
    let code = conflict.or_else(|| leased.last_code.clone().filter(|_| !matches!(next, Next::SendAgain(_))));
    let (state, next_attempt_at) = match &next {
        Next::Reported { .. } => ("reported", now),
        Next::SendAgain(wait) => ("waiting", later(*wait)),
        Next::ReadBack(wait) => ("unknown", later(*wait)),
        Next::Refused => ("refused", now),
        Next::Unresolved => ("unresolved", now),
    };
    let fulfillment_id = match next {
        Next::Reported { fulfillment_id } => Some(clean(&fulfillment_id)),
        _ => None,
    };
    End { leased, request, state, fulfillment_id, next_attempt_at, code, error: text }
}

/// The first characters of a text from Digital River, without those that PostgreSQL rejects.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(ERROR_CHARS_MAX).collect()
}

/// Describes a decision in the log of requests.
fn name(next: &Next) -> &'static str {
    match next {
        Next::Reported { .. } => "this report is among them",
        Next::SendAgain(_) => "this report is not among them and is sent again",
        Next::ReadBack(_) => "this report is not among them yet",
        Next::Refused => "this report is not among them and was rejected",
        Next::Unresolved => "one of them may be this report",
    }
}
