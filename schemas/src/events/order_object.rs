//! The object of an event about an order: the complete order, a charge or a fulfillment.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::de::MapAccess;

use crate::{
    Envelope, EnvelopeError, EventId,
    envelope::{self, Head, Payload, Scalar},
    events::{
        charge_event::{self, Announcement, Operation, WireCharge},
        event_type::{self, Subject},
        fulfillment_event::{Fulfillment, WireFulfillment},
        order_event::OrderEvent,
        order_snapshot::{OrderSnapshot, WireOrder},
        payload::{self, PayloadError, Times},
    },
    ids::IdError,
    oddity::Oddities,
    wire::{Member, Members, Notes, scalar::Id},
};

/// An event's object, parsed together with the envelope in one pass over the body.
#[derive(Debug)]
pub struct OrderObject<'a> {
    head: Head<'a>,
    object: WireObject,
    notes: Notes,
}

/// An object, by its event's type.
#[derive(Debug)]
enum WireObject {
    /// No object, or one that the processor does not need.
    None,
    Order(Box<WireOrder>),
    /// A charge or an order, which is known only when all of the object is read.
    Charge(Box<WireChargeOrOrder>),
    Fulfillment(Box<WireFulfillment>),
}

impl Payload for WireObject {
    fn of_type(event_type: &str) -> Self {
        match event_type::subject(event_type) {
            None => Self::None,
            Some(Subject::Order) => Self::Order(Box::default()),
            Some(Subject::Charge | Subject::Chargeback) => Self::Charge(Box::default()),
            Some(Subject::Fulfillment) => Self::Fulfillment(Box::default()),
        }
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, key: &str, value: Member<'_, A>) -> Result<(), A::Error> {
        match self {
            Self::None => value.ignore(),
            Self::Order(order) => order.member(key, value),
            Self::Charge(charge) => charge.member(key, value),
            Self::Fulfillment(fulfillment) => fulfillment.member(key, value),
        }
    }
}

impl<'a> OrderObject<'a> {
    /// Reads the envelope of a body and its object.
    ///
    /// # Errors
    /// When the body is not an event at all.
    pub fn read(body: &'a [u8]) -> Result<(Envelope<'a>, Self), EnvelopeError> {
        let mut read = envelope::read::<WireObject>(body, None)?;
        // The object precedes the type, so it is read again now that the type is known.
        let is_needed = event_type::subject(&read.envelope.event_type).is_some();
        if is_needed && matches!(read.payload, Some(WireObject::None)) {
            let event_type = read.envelope.event_type.clone();
            read = envelope::read(body, Some(&event_type))?;
        }
        let object = read.payload.unwrap_or(WireObject::None);
        Ok((read.envelope, Self { head: read.head, object, notes: read.notes }))
    }

    /// The oddities of the body, as far as it was read.
    #[must_use]
    pub fn oddities(&self) -> Oddities {
        self.notes.oddities()
    }

    /// Converts the object to an event. `received_at` is the broker's timestamp, if known.
    ///
    /// # Errors
    /// As for [`OrderEvent::parse`].
    pub fn into_event(
        self,
        envelope: &Envelope<'_>,
        received_at: Option<DateTime<Utc>>,
    ) -> Result<OrderEvent, PayloadError> {
        let Self { head, object, notes } = self;
        let event_id = EventId::parse(envelope.id.as_ref()).map_err(PayloadError::EventId)?;
        let (order_id, mode) = payload::order_key(envelope, &notes)?;
        if let Some(fault) = notes.take_fault() {
            return Err(PayloadError::Shape(fault));
        }
        let created_time = Times::new(received_at, None, &notes).valid(envelope.created_time);
        let event = Event { id: &event_id, envelope, created_time, received_at, notes: &notes };
        let fields = match object {
            WireObject::None => return Err(PayloadError::Shape("the event has no object".to_owned())),
            WireObject::Order(order) => event.order(*order)?,
            WireObject::Charge(charge) => event.charge(*charge, head)?,
            WireObject::Fulfillment(fulfillment) => event.fulfillment(*fulfillment, head)?,
        };
        let ObjectFields { as_of, order, operations, fulfillment } = fields;
        Ok(OrderEvent {
            event_type: event_type::canonical(&envelope.event_type).to_owned(),
            created_time,
            as_of: as_of.or(received_at).ok_or(PayloadError::Time)?,
            order_id,
            mode,
            order,
            operations,
            fulfillment,
            oddities: notes.oddities(),
            event_id,
        })
    }
}

impl OrderEvent {
    /// Reads the payload of an event whose envelope is already read. `received_at` is the broker's timestamp, if known.
    ///
    /// # Errors
    /// When the event cannot be applied to an order: missing or invalid ids, no mode, no time, or invalid quantities or
    /// amounts.
    pub fn parse(
        envelope: &Envelope<'_>,
        body: &[u8],
        received_at: Option<DateTime<Utc>>,
    ) -> Result<Self, PayloadError> {
        let read = envelope::read::<WireObject>(body, Some(&envelope.event_type));
        let read = read.map_err(|error| PayloadError::Shape(error.to_string()))?;
        let object = read.payload.unwrap_or(WireObject::None);
        OrderObject { head: read.head, object, notes: read.notes }.into_event(envelope, received_at)
    }
}

/// The fields of an event's object.
#[derive(Default)]
struct ObjectFields {
    as_of: Option<DateTime<Utc>>,
    order: Option<OrderSnapshot>,
    operations: Vec<Operation>,
    fulfillment: Option<Fulfillment>,
}

/// The context in which an event's object is read.
struct Event<'a> {
    id: &'a EventId,
    envelope: &'a Envelope<'a>,
    created_time: Option<DateTime<Utc>>,
    received_at: Option<DateTime<Utc>>,
    notes: &'a Notes,
}

impl Event<'_> {
    fn times(&self) -> Times<'_> {
        Times::new(self.received_at, self.created_time, self.notes)
    }

    fn order(&self, order: WireOrder) -> Result<ObjectFields, PayloadError> {
        let order = order.into_snapshot(self.times())?;
        Ok(ObjectFields {
            as_of: order.updated_time.or(self.created_time),
            order: Some(order),
            ..ObjectFields::default()
        })
    }

    fn charge(&self, wire: WireChargeOrOrder, head: Head<'_>) -> Result<ObjectFields, PayloadError> {
        let names_order = !head.order_id.as_text().is_empty();
        let is_order = !names_order && wire.is_order();
        if !names_order && !is_order {
            // The envelope used the object's id as the order's id, but it is the charge's.
            return Err(PayloadError::OrderId(IdError::Empty));
        }
        let WireChargeOrOrder { order, mut charge, payment, charges } = wire;
        let (mut fields, charges) = if is_order {
            let of_order = payment.and_then(|payment| payment.charges).or(charges).unwrap_or_default();
            (self.order(order)?, of_order)
        } else {
            let created = self.times().read(charge.created_time);
            (charge.id, charge.state, charge.currency) = (id(head.id), order.state, order.currency);
            (ObjectFields { as_of: self.created_time.or(created), ..ObjectFields::default() }, vec![charge])
        };
        let as_of = self.created_time.or(fields.as_of).or(self.received_at);
        let is_chargeback = event_type::subject(&self.envelope.event_type) == Some(Subject::Chargeback);
        if let (false, Some(as_of)) = (is_chargeback, as_of) {
            let event = Announcement::new(&self.envelope.event_type, self.id, as_of, self.times());
            fields.operations = charge_event::operations(&event, charges)?;
        }
        Ok(fields)
    }

    fn fulfillment(&self, mut wire: WireFulfillment, head: Head<'_>) -> Result<ObjectFields, PayloadError> {
        if head.order_id.as_text().is_empty() {
            return Err(PayloadError::OrderId(IdError::Empty));
        }
        wire.id = id(head.id);
        let times = self.times();
        let (fulfillment, order) = wire.split(times)?;
        let details_id = order.as_ref().and_then(|order| order.id.as_ref()).map(|id| id.0.as_str());
        if details_id.is_some_and(|id| !id.is_empty() && self.envelope.order_id.as_deref() != Some(id)) {
            return Err(PayloadError::Shape("`orderDetails` belong to another order".to_owned()));
        }
        Ok(ObjectFields {
            as_of: self.created_time.or(fulfillment.created_time),
            order: order.map(|order| order.into_snapshot(times)).transpose()?,
            fulfillment: Some(fulfillment),
            ..ObjectFields::default()
        })
    }
}

/// The id of an object that was read with the envelope.
fn id(id: Scalar<'_>) -> Option<Id> {
    id.into_text().map(|text| Id(text.into_owned()))
}

/// A charge with the order's id, or an order with its charges: the fields of both.
#[derive(Debug, Default, PartialEq)]
struct WireChargeOrOrder {
    /// Contains `state` and `currency` in either case.
    order: WireOrder,
    charge: WireCharge,
    payment: Option<WirePayment>,
    charges: Option<Vec<WireCharge>>,
}

impl<'de> Members<'de> for WireChargeOrOrder {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, value: Member<'_, A>) -> Result<(), A::Error> {
        match key {
            "payment" => value.object(&mut self.payment),
            "charges" => value.list(&mut self.charges),
            "createdTime" | "amount" | "failureCode" | "captures" | "cancels" | "refunds" => {
                self.charge.member(key, value)
            }
            _ => self.order.member(key, value),
        }
    }
}

impl WireChargeOrOrder {
    fn is_order(&self) -> bool {
        self.order.items.is_some()
            || self.order.state_transitions.is_some()
            || self.payment.is_some()
            || self.charges.is_some()
    }
}

/// The charges of an order: in `payment`, and in older events directly in the order.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "the fields exist for the schema")]
pub(crate) struct WireOrderCharges {
    payment: Option<WirePayment>,
    charges: Option<Vec<WireCharge>>,
}

#[derive(Debug, Default, PartialEq, JsonSchema)]
pub(crate) struct WirePayment {
    charges: Option<Vec<WireCharge>>,
}

impl<'de> Members<'de> for WirePayment {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, value: Member<'_, A>) -> Result<(), A::Error> {
        if key == "charges" { value.list(&mut self.charges) } else { value.ignore() }
    }
}

#[cfg(test)]
mod tests;
