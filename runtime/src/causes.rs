//! Errors as one line.

use std::error::Error;

/// An error with its causes, in one line. Many errors repeat their cause in their own text; such a cause is not printed twice.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let reason = cause.to_string();
        if !text.ends_with(&reason) {
            text = format!("{text}: {reason}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Self>>);

    #[test]
    fn a_cause_that_the_error_repeats_is_printed_once() {
        let cause = Layer("connecting: no route", Some(Box::new(Layer("no route", None))));
        let error = Layer("PostgreSQL is unavailable", Some(Box::new(cause)));
        assert_eq!(with_causes(&error), "PostgreSQL is unavailable: connecting: no route");
    }
}
