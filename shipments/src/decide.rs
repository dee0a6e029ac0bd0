//! Decides what to do after an answer of Digital River, and after reading back. Pure.

use std::time::Duration;

use riverlock_digital_river::{
    Error,
    failure::Repeat,
    fulfillments::{Fulfillment, Line},
};

/// First and longest wait before a report that was not executed is sent again.
const RETRY_WAITS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3_600));

/// Wait after the API key was rejected: a new key takes up to ten minutes to become valid.
const KEY_WAIT: Duration = Duration::from_secs(300);

/// Attempts to report an order that Digital River does not know, in case its own systems lag.
const NOT_FOUND_MAX: i32 = 5;

/// Waits before the fulfillments are read back. How soon a fulfillment is listed is not documented.
const READ_BACK_WAITS: [Duration; 3] = [Duration::from_secs(15), Duration::from_secs(60), Duration::from_secs(300)];

/// What happens to a report next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Digital River has it.
    Reported {
        /// The fulfillment's id.
        fulfillment_id: String,
    },
    /// It was not executed: send it again after the wait.
    SendAgain(Duration),
    /// It may have been executed: read the fulfillments back after the wait.
    ReadBack(Duration),
    /// Digital River rejects it.
    Refused,
    /// It is unknown whether it was executed: an operator has to settle it.
    Unresolved,
}

/// Decides after a failed report. `attempts` is the number of requests so far, including this one.
///
/// Source: Digital River, "Informing Digital River of a fulfillment", and the error codes in its Salesforce app.
#[must_use]
pub fn after_report(error: &Error, attempts: i32) -> Next {
    if error.is_ambiguous() {
        return Next::ReadBack(READ_BACK_WAITS[0]);
    }
    match (error.status(), error.code()) {
        // The lines may have been finished by this report, or by another source with other quantities.
        (Some(409), "order_fulfilled" | "order_complete" | "item_fulfilled" | "item_cancelled") => {
            Next::ReadBack(Duration::ZERO)
        }
        // A request before this one may have been executed, although it was not found when reading back.
        (Some(409), _) if attempts > 1 => Next::ReadBack(Duration::ZERO),
        // `order_cancelled`, `payment_authorization_failed`: the order must not be shipped. `quantity_too_large`: more
        // than is open.
        (Some(409), _) => Next::Refused,
        (Some(404), _) if attempts < NOT_FOUND_MAX => Next::SendAgain(backoff(attempts)),
        (Some(401 | 403), _) => Next::SendAgain(KEY_WAIT),
        _ if error.repeat == Repeat::Never && error.status().is_some() => Next::Refused,
        _ => Next::SendAgain(backoff(attempts)),
    }
}

/// Returns the wait before the next attempt.
#[must_use]
pub fn backoff(attempts: i32) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or_default().min(20);
    RETRY_WAITS.0.saturating_mul(1 << doublings).min(RETRY_WAITS.1)
}

/// Input of the decision after an order's fulfillments were read back.
#[derive(Clone, Debug)]
pub struct ReadBack<'a> {
    /// Id of the report.
    pub report_id: &'a str,
    /// Lines of the report.
    pub lines: &'a [Line],
    /// The order's fulfillments at Digital River.
    pub found: &'a [Fulfillment],
    /// Ids of the order's fulfillments that belong to other reports of this install.
    pub others: &'a [String],
    /// Number of times the fulfillments were read back since the answer was lost, including this one.
    pub read_backs: i32,
    /// Whether Digital River rejected the report because lines are finished, so that sending it again is useless.
    pub refused: bool,
    /// Whether it was sent before the rejected request, and that answer was lost.
    pub sent_before: bool,
}

/// Decides after reading back.
#[must_use]
pub fn after_read_back(read: &ReadBack<'_>) -> Next {
    let own = read.found.iter().find(|fulfillment| fulfillment.report_id.as_deref() == Some(read.report_id));
    if let Some(own) = own {
        return Next::Reported { fulfillment_id: own.id.clone() };
    }
    // If Digital River does not return metadata, an unattributed fulfillment with the same lines may be this report.
    let sorted = |lines: &[Line]| {
        let mut lines: Vec<Line> = lines.to_vec();
        lines.sort();
        lines
    };
    let alike = read.found.iter().any(|fulfillment| {
        fulfillment.report_id.is_none()
            && !read.others.contains(&fulfillment.id)
            && sorted(&fulfillment.lines) == sorted(read.lines)
    });
    if read.refused {
        return if alike && read.sent_before { Next::Unresolved } else { Next::Refused };
    }
    // A fulfillment may be listed late: the report counts as not executed only after several reads.
    let read_backs = usize::try_from(read.read_backs).unwrap_or_default();
    if let Some(wait) = READ_BACK_WAITS.get(read_backs) {
        return Next::ReadBack(*wait);
    }
    if alike { Next::Unresolved } else { Next::SendAgain(Duration::ZERO) }
}

#[cfg(test)]
mod tests {
    use riverlock_digital_river::{
        Failure,
        failure::{Detail, Effect, ErrorAnswer, repeat},
    };
    use riverlock_schemas::Mode;

    use super::*;

    fn error(failure: Failure) -> Error {
        Error {
            method: "POST",
            path: "/fulfillments".into(),
            mode: Mode::Test,
            repeat: repeat(Effect::Once, &failure),
            failure,
            attempts: 1,
            request_id: None,
            upstream_id: String::new(),
        }
    }

    fn status(status: u16, code: &str) -> Error {
        let details = vec![Detail { code: code.into(), ..Detail::default() }];
        error(Failure::Status(Box::new(ErrorAnswer { status, details, ..ErrorAnswer::default() })))
    }

    #[test]
    fn every_answer_leads_to_its_decision() {
        let read_back = Next::ReadBack(READ_BACK_WAITS[0]);
        for (error, expected) in [
            (status(500, "unknown_error"), read_back.clone()),
            (status(408, ""), read_back.clone()),
            (error(Failure::Lost("reset".into())), read_back.clone()),
            (error(Failure::Unreadable("html".into())), read_back),
            (status(409, "order_fulfilled"), Next::ReadBack(Duration::ZERO)),
            (status(409, "order_complete"), Next::ReadBack(Duration::ZERO)),
            (status(409, "item_fulfilled"), Next::ReadBack(Duration::ZERO)),
            (status(409, "item_cancelled"), Next::ReadBack(Duration::ZERO)),
            (status(409, "order_cancelled"), Next::Refused),
            (status(409, "quantity_too_large"), Next::Refused),
            (status(409, "payment_authorization_failed"), Next::Refused),
            (status(409, "something_new"), Next::Refused),
            (status(400, "missing_parameter"), Next::Refused),
            (status(404, "not_found"), Next::SendAgain(backoff(1))),
            (status(429, ""), Next::SendAgain(backoff(1))),
            (status(401, ""), Next::SendAgain(KEY_WAIT)),
            (status(403, ""), Next::SendAgain(KEY_WAIT)),
            (error(Failure::NotConnected("refused".into())), Next::SendAgain(backoff(1))),
            (error(Failure::NoSlot), Next::SendAgain(backoff(1))),
        ] {
            assert_eq!(after_report(&error, 1), expected, "{error}");
        }
        assert_eq!(after_report(&status(404, "not_found"), NOT_FOUND_MAX), Next::Refused);
        // The rest of a line is smaller than the quantity if an earlier request of this report was executed.
        assert_eq!(after_report(&status(409, "quantity_too_large"), 2), Next::ReadBack(Duration::ZERO));
    }

    #[test]
    fn a_lost_report_is_found_or_sent_again_or_left_to_an_operator() {
        let lines = [Line { line_id: "a".into(), quantity: 1, cancel_quantity: 0 }];
        let fulfillment = |id: &str, report_id: Option<&str>| Fulfillment {
            id: id.into(),
            report_id: report_id.map(str::to_owned),
            lines: lines.to_vec(),
        };
        let decide = |found: &[Fulfillment], others: &[String], read_backs, refused| {
            let sent_before = false;
            after_read_back(&ReadBack {
                report_id: "r",
                lines: &lines,
                found,
                others,
                read_backs,
                refused,
                sent_before,
            })
        };
        let own = [fulfillment("x", None), fulfillment("f", Some("r"))];
        assert_eq!(decide(&own, &[], 1, false), Next::Reported { fulfillment_id: "f".into() });
        assert_eq!(decide(&own, &[], 1, true), Next::Reported { fulfillment_id: "f".into() });
        assert_eq!(decide(&[], &[], 1, false), Next::ReadBack(READ_BACK_WAITS[1]));
        assert_eq!(decide(&[], &[], 2, false), Next::ReadBack(READ_BACK_WAITS[2]));
        assert_eq!(decide(&[], &[], 3, false), Next::SendAgain(Duration::ZERO));
        assert_eq!(decide(&[fulfillment("x", Some("other"))], &[], 3, false), Next::SendAgain(Duration::ZERO));
        assert_eq!(decide(&[fulfillment("x", None)], &[], 3, false), Next::Unresolved);
        assert_eq!(decide(&[fulfillment("x", None)], &["x".into()], 3, false), Next::SendAgain(Duration::ZERO));
        assert_eq!(decide(&[], &[], 1, true), Next::Refused);
    }
}
