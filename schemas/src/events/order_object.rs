//! The object of an event about an order: the whole order, or something that names it.

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
        oddity::Oddities,
        order_event::OrderEvent,
        order_snapshot::{OrderSnapshot, WireOrder},
        payload::{self, PayloadError, Times},
    },
    ids::IdError,
    wire::{Member, Members, Notes, scalar::Id},
};

/// What was read of an event's object along with the envelope, so that the body is passed through once.
#[derive(Debug)]
pub struct OrderObject<'a> {
    head: Head<'a>,
    object: WireObject,
    notes: Notes,
}

/// An object by what its event's type says it is.
#[derive(Debug)]
enum WireObject {
    /// None, or one that no consumer of orders needs.
    None,
    Order(Box<WireOrder>),
    /// What a charge's object is only a look at all of it tells.
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
    /// Reads the envelope of a body, and its object.
    ///
    /// # Errors
    /// When the body is not an event at all.
    pub fn read(body: &'a [u8]) -> Result<(Envelope<'a>, Self), EnvelopeError> {
        let mut read = envelope::read::<WireObject>(body, None)?;
        // The object stands before the type: now that this is known, it is read again.
        let is_needed = event_type::subject(&read.envelope.event_type).is_some();
        if is_needed && matches!(read.payload, Some(WireObject::None)) {
            let event_type = read.envelope.event_type.clone();
            read = envelope::read(body, Some(&event_type))?;
        }
        let object = read.payload.unwrap_or(WireObject::None);
        Ok((read.envelope, Self { head: read.head, object, notes: read.notes }))
    }

    /// What is unusual in the body, as far as it was read.
    #[must_use]
    pub fn oddities(&self) -> Oddities {
        self.notes.oddities()
    }

    /// The event. `received_at` is when the broker took it; `None` where that is not known.
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
        let created_time = Times::new(received_at, None, &notes).believed(envelope.created_time);
        let event = Event { id: &event_id, envelope, created_time, received_at, notes: &notes };
        let said = match object {
            WireObject::None => return Err(PayloadError::Shape("the event has no object".to_owned())),
            WireObject::Order(order) => event.order(*order)?,
            WireObject::Charge(charge) => event.charge(*charge, head)?,
            WireObject::Fulfillment(fulfillment) => event.fulfillment(*fulfillment, head)?,
        };
        let ObjectFields { as_of, order, operations, fulfillment } = said;
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
    /// Reads the payload of an event whose envelope is already read. `received_at` is when the broker took it; `None` where
    /// that is not known.
    ///
    /// # Errors
    /// When the event cannot be applied to an order: no usable ids, no mode, no time at all, or quantities and amounts that
    /// are none.
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

/// What an event's object says.
#[derive(Default)]
struct ObjectFields {
    as_of: Option<DateTime<Utc>>,
    order: Option<OrderSnapshot>,
    operations: Vec<Operation>,
    fulfillment: Option<Fulfillment>,
}

/// What the object of an event is read with.
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
            // The envelope took the object's own id for the order's, and it is not.
            return Err(PayloadError::OrderId(IdError::Empty));
        }
        let WireChargeOrOrder { order, mut charge, payment, charges } = wire;
        let (mut said, charges) = if is_order {
            let of_order = payment.and_then(|payment| payment.charges).or(charges).unwrap_or_default();
            (self.order(order)?, of_order)
        } else {
            let created = self.times().read(charge.created_time);
            (charge.id, charge.state, charge.currency) = (id(head.id), order.state, order.currency);
            (ObjectFields { as_of: self.created_time.or(created), ..ObjectFields::default() }, vec![charge])
        };
        let as_of = self.created_time.or(said.as_of).or(self.received_at);
        let is_chargeback = event_type::subject(&self.envelope.event_type) == Some(Subject::Chargeback);
        if let (false, Some(as_of)) = (is_chargeback, as_of) {
            let event = Announcement::new(&self.envelope.event_type, self.id, as_of, self.times());
            said.operations = charge_event::operations(&event, charges)?;
        }
        Ok(said)
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
            return Err(PayloadError::Shape("`orderDetails` are those of another order".to_owned()));
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

/// A charge that names its order, or an order with its charges: the fields of both.
#[derive(Debug, Default, PartialEq)]
struct WireChargeOrOrder {
    /// `state` and `currency` are here, whichever of the two it is.
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

/// The charges of an order: under `payment`, and in older events directly under the order.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "the fields are there for the schema")]
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
