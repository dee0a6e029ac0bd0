//! A shipment that is to be reported.

use riverlock_digital_river::fulfillments::Line;
use riverlock_schemas::Mode;

/// A shipment to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewReport {
    /// The order.
    pub order_id: String,
    /// Whose data.
    pub mode: Mode,
    /// The caller's key: the same key with the same content is the same report.
    pub idempotency_key: String,
    /// What is shipped or cancelled.
    pub lines: Vec<Line>,
    /// The carrier.
    pub tracking_company: Option<String>,
    /// The carrier's number of the shipment.
    pub tracking_number: Option<String>,
    /// Where the shipment can be followed.
    pub tracking_url: Option<String>,
    /// Who brings it.
    pub source: Source,
    /// The person or program.
    pub created_by: String,
}

/// Who brings a shipment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The order API.
    Api,
    /// The command line.
    Cli,
    /// The topic of shipments.
    Kafka,
}

impl Source {
    /// As in the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Cli => "cli",
            Self::Kafka => "kafka",
        }
    }
}
