//! Input for storing a shipment.

use riverlock_digital_river::fulfillments::Line;
use riverlock_schemas::Mode;

/// A shipment to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewReport {
    /// Order id.
    pub order_id: String,
    /// Mode of the order.
    pub mode: Mode,
    /// The caller's idempotency key: the same key with the same content is the same report.
    pub idempotency_key: String,
    /// The quantities that are shipped or cancelled.
    pub lines: Vec<Line>,
    /// Name of the carrier.
    pub tracking_company: Option<String>,
    /// The carrier's tracking number.
    pub tracking_number: Option<String>,
    /// URL for tracking.
    pub tracking_url: Option<String>,
    /// Where the shipment comes from.
    pub source: Source,
    /// The operator or client that created it.
    pub created_by: String,
}

/// Where a shipment comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The order API.
    Api,
    /// The command line.
    Cli,
    /// The Kafka topic of shipments.
    Kafka,
}

impl Source {
    /// The name used in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Cli => "cli",
            Self::Kafka => "kafka",
        }
    }
}
