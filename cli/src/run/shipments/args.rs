//! Arguments of `riverlock shipments`.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use riverlock_digital_river::fulfillments::Line;
use uuid::Uuid;

use crate::{
    options::{change::ChangeOptions, mode::ModeOption, operator::Operator},
    terminal::out::Output,
};

/// The subcommands of `riverlock shipments`.
#[derive(Debug, Subcommand)]
pub enum ShipmentsCommand {
    /// Store a shipment, which the processor reports to Digital River
    ///
    /// There is no dry run: the shipment is stored at once, and reported if a processor runs.
    #[command(after_help = "Examples:
  riverlock shipments add 204440790336 --ship 251000330336=2 --key parcel-4711 --mode live")]
    Add(AddOptions),
    /// List shipments, newest first
    #[command(after_help = "Examples:
  riverlock shipments list --state refused
  riverlock shipments list --order 204440790336 --json")]
    List {
        /// Only shipments of this order
        #[arg(long)]
        order: Option<String>,
        /// Only shipments in this state
        #[arg(long, value_enum)]
        state: Option<StateOption>,
        /// Maximum number of shipments
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// Continue after this shipment; the previous page prints the cursor
        #[arg(long, value_name = "REPORT-ID")]
        after: Option<Uuid>,
        /// The output format
        #[command(flatten)]
        output: Output,
    },
    /// Show a shipment with its lines, its state and the requests to Digital River
    #[command(after_help = "Examples:
  riverlock shipments show 0190d0a4-5e7c-7000-8000-000000000001")]
    Show {
        /// The report's id
        report_id: Uuid,
        /// The output format
        #[command(flatten)]
        output: Output,
    },
    /// List records of the topic of shipments that were not stored, newest first
    ///
    /// Those with the outcome `dead` could not be read and are dead letters; `refused` ones violate the rule that the code names.
    /// Correct the shipment and write it to the topic again.
    #[command(after_help = "Examples:
  riverlock shipments rejected
  riverlock shipments rejected --order 204440790336 --json")]
    Rejected {
        /// Only records about this order
        #[arg(long)]
        order: Option<String>,
        /// Maximum number of records
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// The output format
        #[command(flatten)]
        output: Output,
    },
    /// Report a refused shipment again, after its cause was removed
    ///
    /// Dry run unless --apply is given.
    #[command(after_help = "Examples:
  riverlock shipments retry 0190d0a4-5e7c-7000-8000-000000000001 --apply --reason 'corrected the line id'")]
    Retry {
        /// The report's id
        report_id: Uuid,
        /// The decision's operator and reason
        #[command(flatten)]
        decision: ChangeOptions,
    },
    /// Settle a shipment that was refused, or whose report has an unknown result
    ///
    /// Dry run unless --apply is given.
    #[command(after_help = "Examples:
  riverlock shipments settle 0190d0a4-5e7c-7000-8000-000000000001 --reported-as ful_0001 --apply --reason 'seen in the dashboard'
  riverlock shipments settle 0190d0a4-5e7c-7000-8000-000000000001 --withdraw")]
    Settle(SettleOptions),
}

/// A shipment.
#[derive(Debug, Args)]
pub struct AddOptions {
    /// Digital River's id of the order
    pub order_id: String,
    /// A line and its shipped quantity, such as 251000330336=2; can be repeated
    #[arg(long = "ship", value_name = "LINE=QUANTITY", value_parser = quantity)]
    pub shipped: Vec<(String, i64)>,
    /// A line and the quantity that will not be shipped; can be repeated
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
    /// The carrier's tracking number
    #[arg(long)]
    pub tracking_number: Option<String>,
    /// The address of the carrier's tracking page
    #[arg(long)]
    pub tracking_url: Option<String>,
    /// The operator
    #[command(flatten)]
    pub operator: Operator,
    /// The output format
    #[command(flatten)]
    pub output: Output,
}

impl AddOptions {
    /// The lines with their shipped and cancelled quantities.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        let parts = self.shipped.iter().map(|(id, count)| (id, *count, 0));
        for (line_id, quantity, cancel_quantity) in
            parts.chain(self.cancelled.iter().map(|(id, count)| (id, 0, *count)))
        {
            // A line may be shipped in part and cancelled in part; a repeated line is rejected when the shipment is stored.
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
    /// Digital River has the shipment, as this fulfillment
    #[arg(long, value_name = "FULFILLMENT")]
    pub reported_as: Option<String>,
    /// Digital River does not have the shipment: report it again
    #[arg(long)]
    pub send_again: bool,
    /// Do not report the shipment
    #[arg(long)]
    pub withdraw: bool,
    /// The decision's operator and reason
    #[command(flatten)]
    pub decision: ChangeOptions,
}

/// A state of a shipment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the states are described in the migration")]
pub enum StateOption {
    Waiting,
    Sending,
    Unknown,
    Reported,
    Refused,
    Unresolved,
    Withdrawn,
}

impl StateOption {
    /// The name in the database.
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
            operator: Operator::default(),
            output: Output::default(),
        };
        let lines: Vec<_> = options.lines().into_iter().map(|l| (l.line_id, l.quantity, l.cancel_quantity)).collect();
        assert_eq!(lines, [("a".to_owned(), 2, 1), ("b".to_owned(), 1, 0), ("c".to_owned(), 0, 3)]);
        for wrong in ["a", "=1", "a=0", "a=-1", "a=x"] {
            assert!(quantity(wrong).is_err(), "{wrong}");
        }
    }
}
