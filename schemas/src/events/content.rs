//! Content digest of an event: small enough to be stored with every record, and comparable.
//!
//! One event can have several bodies: from webhooks with the standard and the expanded form or of two API versions, or fetched
//! from the Events API. They differ in their bytes and in their fields, which is not a conflict unless they contradict each
//! other. The digest detects contradictions without the first body: it has a cell for each *aspect* of an event, such as its
//! lines with their quantities. A cell encodes which fields the aspect has (`key`, 0 for none) and their values (`value`). Two
//! bodies contradict each other if an aspect of both has the same fields with different values. Fields that only one of them
//! has are not a contradiction.
//!
//! The digest covers the type, the mode, the order's id, its state, the times of its states (to the second, since API versions
//! differ in fractions), amount and currency, the lines with quantities, the lines' products and states, the address, further
//! details, and other objects of the event: charges with states and amounts, a fulfillment, a file. It does not cover the
//! event's `createdTime`, `physical`, the times of lines, and texts in which characters were replaced.
//!
//! Both halves of a cell have 16 bits. So one of 65 536 contradictions is missed, and one of 65 536 pairs of bodies with
//! different sets of times or charges is wrongly taken for a contradiction. In either case both bodies are applied to the
//! order; a wider digest would cost space in every record's row.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use crate::{
    Envelope, Mode,
    events::{
        charge_event::Operation,
        event_type::{self, CHARGE_PREFIX},
        file_event::FileEvent,
        fulfillment_event::{Fulfillment, Tracking},
        order_event::{OrderDetails, OrderEvent, OrderSnapshot, ShipTo},
    },
    hash::Fnv,
    ids::is_event_key,
};

/// Version of the digest's encoding. Digests of different versions are not compared; see [`Content::contradicts`].
const VERSION: u8 = 2;
/// Decimal places to which amounts are compared, because Digital River's amounts sometimes have binary rounding errors.
const AMOUNT_SCALE: u32 = 4;

const CELLS: usize = 10;
const CELL_BYTES: usize = 4;

/// The aspects of an event, in the order of their cells in the digest.
#[derive(Clone, Copy, Debug)]
enum Aspect {
    Type,
    Order,
    State,
    Times,
    Money,
    Quantities,
    Products,
    Address,
    Details,
    Subject,
}

impl Aspect {
    const ALL: [Self; CELLS] = [
        Self::Type,
        Self::Order,
        Self::State,
        Self::Times,
        Self::Money,
        Self::Quantities,
        Self::Products,
        Self::Address,
        Self::Details,
        Self::Subject,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Order => "order",
            Self::State => "state",
            Self::Times => "times",
            Self::Money => "amount",
            Self::Quantities => "lines and quantities",
            Self::Products => "products",
            Self::Address => "address",
            Self::Details => "details",
            Self::Subject => "charge, fulfillment or file",
        }
    }

    fn offset(self) -> usize {
        2 + self as usize * CELL_BYTES
    }
}

/// The content digest of one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content([u8; Content::BYTES]);

impl Content {
    /// The size of a digest, in bytes.
    pub const BYTES: usize = 2 + CELLS * CELL_BYTES;

    /// The digest of an envelope.
    #[must_use]
    pub fn of_envelope(envelope: &Envelope<'_>) -> Self {
        Self::of_parts(&envelope.event_type, envelope.mode, envelope.order_id.as_deref())
    }

    /// The digest of a record for which only these columns are stored.
    #[must_use]
    pub fn of_parts(event_type: &str, mode: Option<Mode>, order_id: Option<&str>) -> Self {
        let mut content = Self([0; Self::BYTES]);
        content.0[0] = VERSION;
        content.0[1] = match mode {
            None => 0,
            Some(Mode::Test) => 1,
            Some(Mode::Live) => 2,
        };
        content.set_whole(Aspect::Type, |hash| hash.text(canonical_type(event_type)));
        if let Some(order_id) = order_id {
            content.set_whole(Aspect::Order, |hash| hash.text(order_id));
        }
        content
    }

    /// Reads a stored digest; `None` if it has another size.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes to store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// Adds the payload of an event about an order.
    pub fn add_order_event(&mut self, event: &OrderEvent) {
        let mut details = Fields::new();
        if let Some(order) = &event.order {
            self.add_order(order, &mut details);
        }
        if !event.operations.is_empty() {
            self.add_operations(&event.operations);
        }
        if let Some(fulfillment) = &event.fulfillment {
            self.add_fulfillment(fulfillment, &mut details);
        }
        self.set_fields(Aspect::Details, &details);
    }

    /// Adds the payload of an event about a file.
    pub fn add_file_event(&mut self, event: &FileEvent) {
        self.set_whole(Aspect::Subject, |hash| hash.bytes(event.file_id.as_uuid().as_bytes()));
    }

    /// The aspect in which two bodies with the same event id contradict each other; `None` if they are spellings of one event.
    #[must_use]
    pub fn contradicts(&self, other: &Self) -> Option<&'static str> {
        if self.0[1] != other.0[1] && self.0[1] != 0 && other.0[1] != 0 {
            return Some("mode");
        }
        if self.0[0] != other.0[0] {
            return None;
        }
        let contradict = |aspect: &Aspect| {
            let ((key, value), (other_key, other_value)) = (self.cell(*aspect), other.cell(*aspect));
            key != 0 && key == other_key && value != other_value
        };
        Aspect::ALL.into_iter().find(contradict).map(Aspect::name)
    }

    fn add_order(&mut self, order: &OrderSnapshot, details: &mut Fields) {
        if let Some(state) = &order.details.state {
            self.set_whole(Aspect::State, |hash| hash.text(state));
        }
        self.set_times(order);
        let mut money = Fields::new();
        money.text(order.details.currency.as_deref());
        money.add(order.details.total_amount, amount_to);
        self.set_fields(Aspect::Money, &money);
        self.set_lines(order);
        if let Some(ship_to) = &order.details.ship_to {
            let ShipTo { name, phone, line1, line2, city, postal_code, state, country } = ship_to;
            let mut address = Fields::new();
            for field in [name, phone, line1, line2, city, postal_code, state, country] {
                address.text(field.as_deref());
            }
            self.set_fields(Aspect::Address, &address);
        }
        let OrderDetails { fraud_state, customer_id, selling_entity_id, upstream_id, service_level, .. } =
            &order.details;
        for field in [fraud_state, customer_id, selling_entity_id, upstream_id, service_level] {
            details.text(field.as_deref());
        }
    }

    /// Adds the valid times, by the names of the states.
    fn set_times(&mut self, order: &OrderSnapshot) {
        let (mut names, mut times) = (Fnv::new(), Fnv::new());
        let listed = order.transitions.iter().filter_map(|(state, time)| Some((state.as_str(), (*time)?)));
        let mut is_any = false;
        for (name, time) in order.updated_time.map(|time| ("updated", time)).into_iter().chain(listed) {
            is_any = true;
            names.text(name);
            time_to(&mut times, time);
        }
        if is_any {
            self.set(Aspect::Times, names.key(), &times);
        }
    }

    /// Adds the lines. They can be compared if all lines of both bodies have a field, as they usually do.
    fn set_lines(&mut self, order: &OrderSnapshot) {
        let lines = &order.lines;
        if lines.is_empty() {
            return;
        }
        if lines.iter().all(|line| line.details.quantity.is_some()) {
            self.set_whole(Aspect::Quantities, |hash| {
                for line in lines {
                    hash.text(line.line_id.as_str());
                    hash.bytes(&line.details.quantity.unwrap_or_default().to_be_bytes());
                }
            });
        }
        let is_whole = |text: &Option<String>| text.as_ref().is_some_and(|text| !is_damaged(text));
        let mut products = Fields::new();
        products.add(lines.iter().all(|line| is_whole(&line.details.sku_id)).then_some(()), |hash, ()| {
            for line in lines {
                hash.text(line.line_id.as_str());
                hash.text(line.details.sku_id.as_deref().unwrap_or_default());
            }
        });
        products.add(lines.iter().all(|line| is_whole(&line.details.state)).then_some(()), |hash, ()| {
            for line in lines {
                hash.text(line.line_id.as_str());
                hash.text(line.details.state.as_deref().unwrap_or_default());
            }
        });
        self.set_fields(Aspect::Products, &products);
    }

    fn add_operations(&mut self, operations: &[Operation]) {
        // An operation without an id may have one, or be missing, in another spelling.
        let mut sorted: Vec<&Operation> =
            operations.iter().filter(|operation| !is_event_key(&operation.key.operation_id)).collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        let (mut keys, mut said) = (Fnv::new(), Fnv::new());
        for operation in sorted {
            keys.text(operation.key.kind.as_str());
            keys.text(&operation.key.charge_id);
            keys.text(&operation.key.operation_id);
            keys.bytes(&[u8::from(operation.reached.is_some()), u8::from(operation.details.amount.is_some())]);
            said.bytes(&[operation.reached.map_or(0, |(state, _)| 1 + state as u8)]);
            if let Some(amount) = operation.details.amount {
                amount_to(&mut said, amount);
            }
        }
        self.set(Aspect::Subject, keys.key(), &said);
    }

    fn add_fulfillment(&mut self, fulfillment: &Fulfillment, details: &mut Fields) {
        self.set_whole(Aspect::Subject, |hash| {
            hash.text(fulfillment.fulfillment_id.as_str());
            for (line_id, line) in &fulfillment.lines {
                hash.text(line_id.as_str());
                hash.bytes(&line.fulfilled.to_be_bytes());
                hash.bytes(&line.cancelled.to_be_bytes());
            }
        });
        // A tracking URL may contain more than the number and differ with every request.
        let Tracking { shipment_id, company, number, url: _ } = &fulfillment.tracking;
        details.skip_to(5);
        for field in [shipment_id, company, number] {
            details.text(field.as_deref());
        }
    }

    /// Fills the cell of an aspect without optional fields.
    fn set_whole(&mut self, aspect: Aspect, fill: impl FnOnce(&mut Fnv)) {
        let mut hash = Fnv::new();
        fill(&mut hash);
        self.set(aspect, 1, &hash);
    }

    fn set_fields(&mut self, aspect: Aspect, fields: &Fields) {
        if fields.mask != 0 {
            self.set(aspect, fields.mask, &fields.hash);
        }
    }

    fn set(&mut self, aspect: Aspect, key: u16, hash: &Fnv) {
        let ([key_high, key_low], [high, low]) = (key.to_be_bytes(), hash.value().to_be_bytes());
        self.0[aspect.offset()..aspect.offset() + CELL_BYTES].copy_from_slice(&[key_high, key_low, high, low]);
    }

    fn cell(&self, aspect: Aspect) -> (u16, u16) {
        let half = |at: usize| u16::from_be_bytes([self.0[at], self.0[at + 1]]);
        (half(aspect.offset()), half(aspect.offset() + CELL_BYTES / 2))
    }
}

/// Up to 16 fields of an aspect: which of them are present, and a hash of their values.
struct Fields {
    mask: u16,
    next: u32,
    hash: Fnv,
}

impl Fields {
    fn new() -> Self {
        Self { mask: 0, next: 0, hash: Fnv::new() }
    }

    fn add<T>(&mut self, field: Option<T>, fill: impl FnOnce(&mut Fnv, T)) {
        if let Some(field) = field {
            self.mask |= 1_u16.checked_shl(self.next).unwrap_or_default();
            fill(&mut self.hash, field);
        }
        self.next += 1;
    }

    /// Adds a text unless characters of it were replaced, because another spelling may have the original ones.
    fn text(&mut self, text: Option<&str>) {
        self.add(text.filter(|text| !is_damaged(text)), Fnv::text);
    }

    /// Sets the number of the next field.
    fn skip_to(&mut self, number: u32) {
        self.next = number;
    }
}

fn is_damaged(text: &str) -> bool {
    text.contains(char::REPLACEMENT_CHARACTER)
}

fn time_to(hash: &mut Fnv, time: DateTime<Utc>) {
    hash.bytes(&time.timestamp().to_be_bytes());
}

fn amount_to(hash: &mut Fnv, amount: Decimal) {
    let amount = amount.round_dp(AMOUNT_SCALE).normalize();
    hash.bytes(&amount.mantissa().to_be_bytes());
    hash.bytes(&amount.scale().to_be_bytes());
}

/// The type's canonical name; Digital River lists some as `complete` and as `completed`.
fn canonical_type(event_type: &str) -> &str {
    match event_type.strip_suffix("completed") {
        Some(stem) if event_type.starts_with(CHARGE_PREFIX) => &event_type[..stem.len() + "complete".len()],
        _ => event_type::canonical(event_type),
    }
}

mod packed;

#[cfg(test)]
mod tests;
