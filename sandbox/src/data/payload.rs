//! Events as JSON text, in the shapes that Digital River documents.
//!
//! Money is written from whole cents by [`Money`] and never passes through a binary float.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::value::RawValue;

use crate::data::order::{Buyer, Line, Order};

mod envelope;
pub(crate) use envelope::{Envelope, Versions, file_body, order_body, unknown_body};

/// Cents, written as a JSON number with two decimals.
#[derive(Debug, Clone, Copy)]
struct Money(i64);

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let sign = if self.0 < 0 { "-" } else { "" };
        let cents = self.0.unsigned_abs();
        raw(format!("{sign}{}.{:02}", cents / 100, cents % 100), serializer)
    }
}

/// Millionths, written as a JSON number with six decimals.
#[derive(Debug, Clone, Copy)]
struct Rate(i64);

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let millionths = self.0.unsigned_abs();
        raw(format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000), serializer)
    }
}

fn raw<S: Serializer>(number: String, serializer: S) -> Result<S::Ok, S::Error> {
    RawValue::from_string(number).map_err(serde::ser::Error::custom)?.serialize(serializer)
}

/// A time in Digital River's form: ISO 8601, UTC, `Z`, as many digits of a fraction as it has.
#[derive(Debug, Clone, Copy)]
struct Stamp(DateTime<Utc>);

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

/// States and when each was reached, the earliest first.
pub(crate) type Transitions = Vec<(&'static str, DateTime<Utc>)>;

/// Transitions as a JSON object.
struct Timeline<'a> {
    transitions: &'a Transitions,
    latest_first: bool,
}

impl Serialize for Timeline<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.transitions.len()))?;
        let mut write = |&(state, at): &(&'static str, DateTime<Utc>)| map.serialize_entry(state, &Stamp(at));
        if self.latest_first {
            self.transitions.iter().rev().try_for_each(&mut write)?;
        } else {
            self.transitions.iter().try_for_each(&mut write)?;
        }
        map.end()
    }
}

/// The progress of an order.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    /// The order's states so far.
    pub(crate) states: Transitions,
    /// The fraud check's states so far.
    pub(crate) fraud: Transitions,
    /// Each line's states so far, in the order of the lines.
    pub(crate) lines: Vec<Transitions>,
    /// When anything last changed.
    pub(crate) updated: DateTime<Utc>,
}

impl Moment {
    /// The present state; empty before the first.
    pub(crate) fn state(&self) -> &'static str {
        latest(&self.states)
    }

    fn has_reached(&self, state: &str) -> bool {
        self.states.iter().any(|(reached, _)| *reached == state)
    }
}

fn latest(transitions: &Transitions) -> &'static str {
    transitions.last().map_or("", |(state, _)| state)
}

#[derive(Serialize)]
struct Address {
    line1: &'static str,
    city: &'static str,
    #[serde(rename = "postalCode")]
    postal_code: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    state: &'static str,
    country: &'static str,
}

#[derive(Serialize)]
struct Party {
    address: Address,
    name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'static str>,
}

impl Party {
    fn new(buyer: &Buyer, email: Option<&'static str>) -> Self {
        let address = Address {
            line1: buyer.street,
            city: buyer.city,
            postal_code: buyer.postal_code,
            state: buyer.state,
            country: buyer.country,
        };
        Self { address, name: buyer.name, email }
    }
}

#[derive(Serialize)]
struct Amount {
    amount: Money,
}

#[derive(Serialize)]
struct TaxedAmount {
    rate: Rate,
    amount: Money,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProductDetails<'a> {
    id: &'a str,
    name: &'static str,
    description: &'static str,
    country_of_origin: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    physical: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
}

#[derive(Serialize)]
struct Metadata {
    shelf: &'static str,
    fragile: bool,
}

const METADATA: Metadata = Metadata { shelf: "B-12", fragile: false };

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    id: &'a str,
    sku_id: &'a str,
    product_details: ProductDetails<'a>,
    amount: Money,
    quantity: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
    state: &'static str,
    state_transitions: Timeline<'a>,
    tax: TaxedAmount,
    importer_tax: Amount,
    duties: Amount,
    available_to_refund_amount: Money,
    fees: Amount,
}

impl<'a> Item<'a> {
    fn new(order: &'a Order, line: &'a Line, transitions: &'a Transitions) -> Self {
        let state = latest(transitions);
        let shape = order.shape;
        Self {
            id: &line.id,
            sku_id: &line.sku,
            product_details: ProductDetails {
                id: &line.sku,
                name: line.product.name,
                description: line.product.description,
                country_of_origin: "US",
                physical: shape.expanded.then_some(line.product.physical),
                metadata: shape.expanded.then_some(METADATA),
            },
            amount: Money(line.amount),
            quantity: line.quantity,
            metadata: shape.older.then_some(METADATA),
            state,
            state_transitions: Timeline { transitions, latest_first: shape.latest_first },
            tax: TaxedAmount { rate: Rate(order.buyer.tax_rate), amount: Money(line.tax) },
            importer_tax: Amount { amount: Money(0) },
            duties: Amount { amount: Money(0) },
            available_to_refund_amount: Money(if state == "fulfilled" { line.amount + line.tax } else { 0 }),
            fees: Amount { amount: Money(0) },
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Charge<'a> {
    id: &'a str,
    created_time: Stamp,
    currency: &'static str,
    amount: Money,
    state: &'static str,
    captured: bool,
    refunded: bool,
    source_id: &'a str,
    r#type: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Session<'a> {
    id: &'a str,
    amount_contributed: Money,
    amount_remaining_to_be_contributed: Money,
    state: &'static str,
}

#[derive(Serialize)]
struct Source<'a> {
    id: &'a str,
    r#type: &'static str,
    amount: Money,
}

#[derive(Serialize)]
struct Payment<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    charges: Option<[Charge<'a>; 1]>,
    sources: [Source<'a>; 1],
    session: Session<'a>,
}

#[derive(Serialize)]
struct SellingEntity {
    id: &'static str,
    name: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Snapshot<'a> {
    id: &'a str,
    created_time: Stamp,
    customer_id: &'a str,
    currency: &'static str,
    email: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ship_to: Option<Party>,
    bill_to: Party,
    total_amount: Money,
    subtotal: Money,
    total_fees: Money,
    total_tax: Money,
    total_importer_tax: Money,
    total_duty: Money,
    total_discount: Money,
    total_shipping: Money,
    items: Vec<Item<'a>>,
    updated_time: Stamp,
    locale: &'static str,
    customer_type: &'static str,
    selling_entity: SellingEntity,
    live_mode: bool,
    payment: Payment<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    charges: Option<[Charge<'a>; 1]>,
    state: &'static str,
    state_transitions: Timeline<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fraud_state: Option<&'static str>,
    fraud_state_transitions: Timeline<'a>,
    request_to_be_forgotten: bool,
    captured_amount: Money,
    cancelled_amount: Money,
    available_to_refund_amount: Money,
    checkout_id: &'a str,
}

impl<'a> Snapshot<'a> {
    fn new(order: &'a Order, moment: &'a Moment) -> Self {
        let buyer = order.buyer;
        let total = order.total();
        let cancelled = cancelled_amount(order, moment);
        let captured = if moment.has_reached("complete") { total - cancelled } else { 0 };
        let latest_first = order.shape.latest_first;
        let (older_charges, charges) = match (order.shape.older, charge(order, moment)) {
            (true, charge) => (charge, None),
            (false, charge) => (None, charge),
        };
        Self {
            id: &order.id,
            created_time: Stamp(order.created),
            customer_id: &order.customer_id,
            currency: buyer.currency,
            email: buyer.email,
            ship_to: order.is_physical().then(|| Party::new(buyer, None)),
            bill_to: Party::new(buyer, Some(buyer.email)),
            total_amount: Money(total),
            subtotal: Money(order.subtotal()),
            total_fees: Money(0),
            total_tax: Money(order.tax()),
            total_importer_tax: Money(0),
            total_duty: Money(0),
            total_discount: Money(0),
            total_shipping: Money(order.shipping),
            items: order.lines.iter().zip(&moment.lines).map(|(line, at)| Item::new(order, line, at)).collect(),
            updated_time: Stamp(moment.updated),
            locale: buyer.locale,
            customer_type: "individual",
            selling_entity: SellingEntity { id: "C5_INC-ENTITY", name: "Sandbox Selling Entity" },
            live_mode: order.live,
            payment: payment(order, moment, charges),
            charges: older_charges,
            state: moment.state(),
            state_transitions: Timeline { transitions: &moment.states, latest_first },
            fraud_state: moment.fraud.last().map(|(state, _)| *state),
            fraud_state_transitions: Timeline { transitions: &moment.fraud, latest_first },
            request_to_be_forgotten: false,
            captured_amount: Money(captured),
            cancelled_amount: Money(cancelled),
            available_to_refund_amount: Money(captured),
            checkout_id: &order.checkout_id,
        }
    }
}

/// Amount of the cancelled lines with tax; that of the whole order with shipping if the order is cancelled.
fn cancelled_amount(order: &Order, moment: &Moment) -> i64 {
    if moment.state() == "cancelled" {
        return order.total();
    }
    let lines = order.lines.iter().zip(&moment.lines);
    lines.filter(|(_, at)| latest(at) == "cancelled").map(|(line, _)| line.amount + line.tax).sum()
}

/// The order's charge; `None` before the payment.
fn charge<'a>(order: &'a Order, moment: &Moment) -> Option<[Charge<'a>; 1]> {
    let state = match moment.state() {
        "complete" => "complete",
        "in_review" | "accepted" | "fulfilled" => "capturable",
        "blocked" => "cancelled",
        "cancelled" if moment.has_reached("accepted") => "cancelled",
        _ => return None,
    };
    Some([Charge {
        id: &order.charge_id,
        created_time: Stamp(order.created),
        currency: order.buyer.currency,
        amount: Money(order.total()),
        state,
        captured: state == "complete",
        refunded: false,
        source_id: &order.source_id,
        r#type: "customer_initiated",
    }])
}

fn payment<'a>(order: &'a Order, moment: &Moment, charges: Option<[Charge<'a>; 1]>) -> Payment<'a> {
    let total = order.total();
    let state = match moment.state() {
        "pending_payment" => "pending_funds",
        "cancelled" | "blocked" => "failed",
        _ => "complete",
    };
    Payment {
        charges,
        sources: [Source { id: &order.source_id, r#type: "creditCard", amount: Money(total) }],
        session: Session {
            id: &order.session_id,
            amount_contributed: Money(total),
            amount_remaining_to_be_contributed: Money(0),
            state,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_and_rates_are_exact_numbers() {
        let text = |cents| serde_json::to_string(&Money(cents)).unwrap();
        assert_eq!(text(2701), "27.01");
        assert_eq!(text(0), "0.00");
        assert_eq!(text(-5), "-0.05");
        assert_eq!(text(9_007_199_254_740_993), "90071992547409.93");
        assert_eq!(serde_json::to_string(&Rate(80_250)).unwrap(), "0.080250");
    }
}
