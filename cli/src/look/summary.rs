//! The first lines of `orders show` and `trace`: the status, what is wrong, what is still open.

use riverlock_invoice_fetcher::queue::view::InvoiceView;
use riverlock_ledger::view::{EventView, MessageView};
use riverlock_processor::store::OrderView;

use crate::terminal::text::{count, printable};

/// An order's progress in the terms of Digital River's Salesforce app.
pub(super) fn salesforce(order: &OrderView) -> String {
    let yes = |received| if received { "yes" } else { "no" };
    format!(
        "OFI received: {}, EFN status: {}, OCN received: {}",
        yes(order.ofi_received),
        order.efn_status,
        yes(order.ocn_received)
    )
}

/// What is wrong and what is open, each in one phrase.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    problems: Vec<String>,
    open: Vec<String>,
}

impl Summary {
    /// Adds a problem of `number` things, unless there are none.
    pub(super) fn problem(&mut self, number: usize, noun: &str, what: &str) {
        if number > 0 {
            self.problems.push(format!("{} {what}", count(number, noun)));
        }
    }

    /// Adds `number` open things, unless there are none.
    pub(super) fn open(&mut self, number: usize, noun: &str, what: &str) {
        if number > 0 {
            self.open.push(format!("{} {what}", count(number, noun)));
        }
    }

    /// Adds the anomalies of an order.
    pub(super) fn order(&mut self, order: &OrderView) {
        if !order.anomalies.is_empty() {
            self.problems.push(format!("anomalies: {}", order.anomalies.join(", ")));
        }
    }

    /// Adds conflicts and dead letters.
    pub(super) fn events<'a>(&mut self, events: impl Iterator<Item = &'a EventView>) {
        let (mut dead, mut conflicts) = (0, 0);
        for event in events {
            match event.outcome.as_str() {
                "dead" => dead += 1,
                "conflict" => conflicts += 1,
                _ => {}
            }
        }
        self.problem(dead, "dead letter", "");
        self.problem(conflicts, "record", "in conflict with an earlier record of the same event");
    }

    /// Adds messages that are not published.
    pub(super) fn messages<'a>(&mut self, messages: impl Iterator<Item = &'a MessageView>) {
        self.open(messages.filter(|message| !message.published).count(), "message", "not published");
    }

    /// Adds documents that are not stored, with the last error of each.
    pub(super) fn documents<'a>(&mut self, documents: impl Iterator<Item = &'a InvoiceView>) {
        for document in documents {
            let error =
                document.last_error.as_deref().map(|error| format!(": {}", printable(error))).unwrap_or_default();
            let text = format!("document {} is {}{error}", document.file_id, printable(&document.state));
            match document.state.as_str() {
                "due" => self.open.push(text),
                "discarded" => self.problems.push(text),
                _ => {}
            }
        }
    }

    /// The summary as lines of a name and a value, one phrase per line.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let none = |phrases: &[String]| if phrases.is_empty() { vec!["none".to_owned()] } else { phrases.to_vec() };
        let mut lines = Vec::new();
        for (name, phrases) in [("problems", none(&self.problems)), ("open", none(&self.open))] {
            let names = std::iter::once(name).chain(std::iter::repeat(""));
            lines.extend(names.zip(phrases).map(|(name, phrase)| (name, phrase.trim_end().to_owned())));
        }
        lines
    }
}

/// The first line about an order.
pub(super) fn headline(order: &OrderView) -> String {
    format!("order {} ({}): {}", printable(&order.order_id), order.mode, order.status.to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_names_problems_before_what_is_open() {
        let mut summary = Summary::default();
        summary.problem(2, "record", "changed");
        summary.problem(0, "dead letter", "");
        summary.open(1, "message", "not published");
        summary.open(3, "document", "due");
        let expected =
            [("problems", "2 records changed"), ("open", "1 message not published"), ("", "3 documents due")];
        assert_eq!(summary.lines(), expected.map(|(name, phrase)| (name, phrase.to_owned())));
        let expected = [("problems", "none"), ("open", "none")];
        assert_eq!(Summary::default().lines(), expected.map(|(name, phrase)| (name, phrase.to_owned())));
    }
}
