//! What follows from an answer, and from what is read back. Pure.

use std::time::Duration;

use riverlock_digital_river::{
    Error,
    failure::Repeat,
    fulfillments::{Fulfillment, Line},
};

/// The pause before a report is sent again that was not executed: first and longest.
const RETRY_WAITS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3_600));

/// The pause after the key was refused: a new one needs up to ten minutes.
const KEY_WAIT: Duration = Duration::from_secs(300);

/// How often an order that Digital River does not know is reported again: its own lag is thinkable.
const NOT_FOUND_MAX: i32 = 5;

/// The pauses before the fulfillments are read back. How soon one is listed is not documented.
const READ_BACK_WAITS: [Duration; 3] = [Duration::from_secs(15), Duration::from_secs(60), Duration::from_secs(300)];

/// What becomes of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Digital River has it.
    Reported {
        /// The fulfillment's id.
        fulfillment_id: String,
    },
    /// It was not executed: it is sent again after the pause.
    SendAgain(Duration),
    /// It may have been executed: the fulfillments are read back after the pause.
    ReadBack(Duration),
    /// Digital River does not take it.
    Refused,
    /// A person has to find out whether it was executed.
    Unresolved,
}

/// What follows from a failed report. `attempts` counts the requests so far, this one included.
///
/// Source: Digital River, "Informing Digital River of a fulfillment", and the codes that its Salesforce app knows.
#[must_use]
pub fn after_report(error: &Error, attempts: i32) -> Next {
    if error.is_ambiguous() {
        return Next::ReadBack(READ_BACK_WAITS[0]);
    }
    match (error.status(), error.code()) {
        // Finished lines may have been finished by this report, or by somebody else with other quantities.
        (Some(409), "order_fulfilled" | "order_complete" | "item_fulfilled" | "item_cancelled") => {
            Next::ReadBack(Duration::ZERO)
        }
        // `order_cancelled`, `payment_authorization_failed`: do not ship. `quantity_too_large`: more than is open.
        (Some(409), _) => Next::Refused,
        (Some(404), _) if attempts < NOT_FOUND_MAX => Next::SendAgain(backoff(attempts)),
        (Some(401 | 403), _) => Next::SendAgain(KEY_WAIT),
        _ if error.repeat == Repeat::Never && error.status().is_some() => Next::Refused,
        _ => Next::SendAgain(backoff(attempts)),
    }
}

/// The pause before the next attempt.
#[must_use]
pub fn backoff(attempts: i32) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or_default().min(20);
    RETRY_WAITS.0.saturating_mul(1 << doublings).min(RETRY_WAITS.1)
}

/// What is known when the fulfillments of an order were read back.
#[derive(Clone, Debug)]
pub struct ReadBack<'a> {
    /// The report that is looked for.
    pub report_id: &'a str,
    /// Its lines.
    pub lines: &'a [Line],
    /// The order's fulfillments at Digital River.
    pub found: &'a [Fulfillment],
    /// The ids of the order's fulfillments that belong to other reports of ours.
    pub others: &'a [String],
    /// How often was read back since the answer was lost, this time included.
    pub read_backs: i32,
    /// Whether Digital River refused the report because lines are finished, so that sending it again is no use.
    pub refused: bool,
    /// Whether it was sent before the request that was refused, with an answer that was lost.
    pub sent_before: bool,
}

/// What follows from what was read back.
#[must_use]
pub fn after_read_back(read: &ReadBack<'_>) -> Next {
    let own = read.found.iter().find(|fulfillment| fulfillment.report_id.as_deref() == Some(read.report_id));
    if let Some(own) = own {
        return Next::Reported { fulfillment_id: own.id.clone() };
    }
    // Should metadata not come back, a fulfillment of nobody with the same lines may be this one.
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
    // Listed late, perhaps: it is looked for several times before it counts as not executed.
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
        failure::{Detail, Effect, Refusal, repeat},
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
        error(Failure::Status(Box::new(Refusal { status, details, ..Refusal::default() })))
    }

    #[test]
    fn every_answer_has_its_outcome() {
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
    }

    #[test]
    fn a_lost_report_is_found_sent_again_or_left_to_a_person() {
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
