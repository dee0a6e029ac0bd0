//! `riverlock shipments` on the command line.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use riverlock_digital_river::fulfillments::Line;
use uuid::Uuid;

use crate::{
    options::{
        mode::ModeOption,
        operator::{By, Reason},
    },
    terminal::out::Output,
};

/// What to do with shipments.
#[derive(Debug, Subcommand)]
pub enum ShipmentsCommand {
    /// Store a shipment of an order; the processor reports it to Digital River
    Add(AddOptions),
    /// List shipments, the newest first
    List {
        /// Only of this order
        #[arg(long)]
        order: Option<String>,
        /// Only in this state
        #[arg(long, value_enum)]
        state: Option<StateArg>,
        /// How many at most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// Go on after this shipment, as the page before says
        #[arg(long, value_name = "REPORT-ID")]
        after: Option<Uuid>,
        /// How to print them
        #[command(flatten)]
        output: Output,
    },
    /// Show a shipment: its lines, its state, and every request to Digital River about it
    Show {
        /// The report's id
        report_id: Uuid,
        /// How to print it
        #[command(flatten)]
        output: Output,
    },
    /// Send a refused shipment again, after its cause was removed
    Retry {
        /// The report's id
        report_id: Uuid,
        /// How it is decided
        #[command(flatten)]
        decision: DecisionOptions,
    },
    /// Decide about a shipment of which cannot be told whether Digital River has it, or which it refused
    Settle(SettleOptions),
}

/// A shipment.
#[derive(Debug, Args)]
pub struct AddOptions {
    /// Digital River's id of the order
    pub order_id: String,
    /// A line and how many of it were shipped, for example 251000330336=2; may be given again
    #[arg(long = "ship", value_name = "LINE=QUANTITY", value_parser = quantity)]
    pub shipped: Vec<(String, i64)>,
    /// A line and how many of it will not be shipped; may be given again
    #[arg(long = "cancel", value_name = "LINE=QUANTITY", value_parser = quantity)]
    pub cancelled: Vec<(String, i64)>,
    /// The idempotency key: the same key with the same content is the same shipment
    #[arg(long)]
    pub key: String,
    /// The order's mode
    #[arg(long, value_enum)]
    pub mode: ModeOption,
    /// The carrier
    #[arg(long)]
    pub tracking_company: Option<String>,
    /// The carrier's number of the shipment
    #[arg(long)]
    pub tracking_number: Option<String>,
    /// Where the shipment can be followed
    #[arg(long)]
    pub tracking_url: Option<String>,
    /// Who stores it
    #[command(flatten)]
    pub by: By,
    /// How to print it
    #[command(flatten)]
    pub output: Output,
}

impl AddOptions {
    /// The lines, with what is shipped and what is cancelled of each.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        let parts = self.shipped.iter().map(|(id, count)| (id, *count, 0));
        for (line_id, quantity, cancel_quantity) in
            parts.chain(self.cancelled.iter().map(|(id, count)| (id, 0, *count)))
        {
            // A line may be shipped in part and cancelled in part; twice the same is left to be refused.
            match lines.iter_mut().find(|line| line.line_id == *line_id && line.cancel_quantity == 0 && quantity == 0) {
                Some(line) => line.cancel_quantity = cancel_quantity,
                None => lines.push(Line { line_id: line_id.clone(), quantity, cancel_quantity }),
            }
        }
        lines
    }
}

/// A decision about a shipment.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("decision").required(true).args(["reported_as", "send_again", "withdraw"])))]
pub struct SettleOptions {
    /// The report's id
    pub report_id: Uuid,
    /// Digital River has it, as this fulfillment
    #[arg(long, value_name = "FULFILLMENT")]
    pub reported_as: Option<String>,
    /// Digital River certainly does not have it: send it again
    #[arg(long)]
    pub send_again: bool,
    /// It is not to be reported
    #[arg(long)]
    pub withdraw: bool,
    /// How it is decided
    #[command(flatten)]
    pub decision: DecisionOptions,
}

/// Who decides about a shipment, and why.
#[derive(Debug, Args)]
pub struct DecisionOptions {
    /// Why it is done
    #[command(flatten)]
    pub reason: Reason,
    /// Who does it
    #[command(flatten)]
    pub by: By,
    /// Do it; without this it is only said what would be done
    #[arg(long)]
    pub apply: bool,
    /// How to print it
    #[command(flatten)]
    pub output: Output,
}

/// A state of a shipment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the states are described in the migration")]
pub enum StateArg {
    Waiting,
    Sending,
    Unknown,
    Reported,
    Refused,
    Unresolved,
    Withdrawn,
}

impl StateArg {
    /// As in the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Sending => "sending",
            Self::Unknown => "unknown",
            Self::Reported => "reported",
            Self::Refused => "refused",
            Self::Unresolved => "unresolved",
            Self::Withdrawn => "withdrawn",
        }
    }
}

fn quantity(text: &str) -> Result<(String, i64), String> {
    let (line, count) = text.rsplit_once('=').ok_or("expected LINE=QUANTITY")?;
    let count = count.parse().map_err(|_| format!("`{count}` is not a whole number"))?;
    if line.is_empty() || count < 1 {
        return Err("expected a line and a quantity above 0".to_owned());
    }
    Ok((line.to_owned(), count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_may_be_shipped_in_part_and_cancelled_in_part() {
        let part = |text: &str| quantity(text).unwrap();
        let options = AddOptions {
            order_id: "1".into(),
            shipped: vec![part("a=2"), part("b=1")],
            cancelled: vec![part("a=1"), part("c=3")],
            key: "k".into(),
            mode: ModeOption::Test,
            tracking_company: None,
            tracking_number: None,
            tracking_url: None,
            by: By::default(),
            output: Output::default(),
        };
        let lines: Vec<_> = options.lines().into_iter().map(|l| (l.line_id, l.quantity, l.cancel_quantity)).collect();
        assert_eq!(lines, [("a".to_owned(), 2, 1), ("b".to_owned(), 1, 0), ("c".to_owned(), 0, 3)]);
        for wrong in ["a", "=1", "a=0", "a=-1", "a=x"] {
            assert!(quantity(wrong).is_err(), "{wrong}");
        }
    }
}
