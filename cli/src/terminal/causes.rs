//! Errors as one line.

/// An error with its causes. Many errors repeat their cause in their own text; such a cause is not printed twice.
pub(crate) fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_the_error_repeats_is_printed_once() {
        let error = anyhow::anyhow!("no route").context("connecting: no route").context("PostgreSQL is unavailable");
        assert_eq!(with_causes(&error), "PostgreSQL is unavailable: connecting: no route");
    }
}
