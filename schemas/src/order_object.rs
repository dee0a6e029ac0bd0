//! The object of an event about an order: the whole order, or something that names it.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::IgnoredAny};

use crate::{
    Envelope, EnvelopeError, EventId,
    charge_event::{self, Operation, WireCharge},
    envelope::Payload,
    event_type::{self, Subject},
    fulfillment_event::{Fulfillment, WireFulfillment},
    ids::IdError,
    order_event::{OrderEvent, OrderSnapshot, WireOrder},
    payload::{self, PayloadError, Text, Time},
};

/// What was read of an event's object along with the envelope: usually all of it, so that the body is passed through once.
#[derive(Default)]
pub struct OrderObject(Option<WireObject>);

enum WireObject {
    Order(Box<WireOrder>),
    Fulfillment(Box<WireFulfillment>),
}

impl<'de> Payload<'de> for WireObject {
    fn read<D: Deserializer<'de>>(event_type: &str, object: D) -> Result<Option<Self>, D::Error> {
        Ok(match event_type::subject(event_type) {
            Some(Subject::Order) => Some(Self::Order(Deserialize::deserialize(object)?)),
            Some(Subject::Fulfillment) => Some(Self::Fulfillment(Deserialize::deserialize(object)?)),
            // What a charge's object is only a look at all of it tells.
            Some(Subject::Charge | Subject::Chargeback) | None => {
                IgnoredAny::deserialize(object)?;
                None
            }
        })
    }
}

impl OrderObject {
    /// Reads the envelope of a body and, as far as the event is as usual, the object.
    ///
    /// # Errors
    /// When the body is not an event at all.
    pub fn read(body: &[u8]) -> Result<(Envelope<'_>, Self), EnvelopeError> {
        let (envelope, object) = Envelope::parse_with(body)?;
        Ok((envelope, Self(object)))
    }

    /// The event; what was not read of its object yet is read from the body.
    ///
    /// # Errors
    /// As for [`OrderEvent::parse`].
    pub fn into_event(self, envelope: &Envelope<'_>, body: &[u8]) -> Result<OrderEvent, PayloadError> {
        let event_id = EventId::parse(envelope.id.as_ref()).map_err(PayloadError::EventId)?;
        let (order_id, mode) = payload::order_key(envelope)?;
        let said = match self.0 {
            Some(WireObject::Order(order)) => Said::of_order(*order, envelope.created_time)?,
            Some(WireObject::Fulfillment(fulfillment)) => Said::of_fulfillment(*fulfillment, envelope)?,
            None => Said::read(event_type::subject(&envelope.event_type).unwrap_or(Subject::Order), envelope, body)?,
        };
        Ok(OrderEvent {
            event_id,
            event_type: envelope.event_type.to_string(),
            created_time: envelope.created_time,
            as_of: said.as_of.ok_or(PayloadError::Time)?,
            order_id,
            mode,
            order: said.order,
            operations: said.operations,
            fulfillment: said.fulfillment,
        })
    }
}

/// What an event's object says.
#[derive(Default)]
struct Said {
    as_of: Option<DateTime<Utc>>,
    order: Option<OrderSnapshot>,
    operations: Vec<Operation>,
    fulfillment: Option<Fulfillment>,
}

impl Said {
    fn read(subject: Subject, envelope: &Envelope<'_>, body: &[u8]) -> Result<Self, PayloadError> {
        let created = envelope.created_time;
        match subject {
            Subject::Order => Self::of_order(payload::object(body)?, created),
            Subject::Charge | Subject::Chargeback => {
                let shape = payload::object::<WireShape>(body)?;
                if !shape.names_order() && !shape.is_order() {
                    // The envelope took the object's own id for the order's, and it is not.
                    return Err(PayloadError::OrderId(IdError::Empty));
                }
                let mut said = if shape.is_order() {
                    Self::of_order(payload::object(body)?, created)?
                } else {
                    Self { as_of: created.or_else(|| payload::time(shape.created_time)), ..Self::default() }
                };
                if let (Subject::Charge, Some(as_of)) = (subject, created.or(said.as_of)) {
                    let charges = if shape.is_order() {
                        payload::object::<WireOrderCharges>(body)?.into_charges()
                    } else {
                        vec![payload::object(body)?]
                    };
                    said.operations = charge_event::operations(&envelope.event_type, charges, as_of);
                }
                Ok(said)
            }
            Subject::Fulfillment => Self::of_fulfillment(payload::object(body)?, envelope),
        }
    }

    fn of_order(order: WireOrder, created: Option<DateTime<Utc>>) -> Result<Self, PayloadError> {
        let order = order.into_snapshot()?;
        Ok(Self { as_of: order.updated_time.or(created), order: Some(order), ..Self::default() })
    }

    fn of_fulfillment(wire: WireFulfillment, envelope: &Envelope<'_>) -> Result<Self, PayloadError> {
        if wire.order_id.as_deref().unwrap_or_default().is_empty() {
            return Err(PayloadError::OrderId(IdError::Empty));
        }
        let (fulfillment, order) = wire.split()?;
        let details_id = order.as_ref().and_then(|order| order.id.as_ref());
        if details_id.is_some_and(|id| envelope.order_id.as_deref() != Some(id.0.as_str())) {
            return Err(PayloadError::Shape("`orderDetails` are those of another order".to_owned()));
        }
        Ok(Self {
            as_of: envelope.created_time.or(fulfillment.created_time),
            order: order.map(WireOrder::into_snapshot).transpose()?,
            fulfillment: Some(fulfillment),
            ..Self::default()
        })
    }
}

/// As much of an object as tells an order from what only names one.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireShape {
    order_id: Option<Text>,
    created_time: Option<Time>,
    items: Option<IgnoredAny>,
    payment: Option<IgnoredAny>,
    charges: Option<IgnoredAny>,
    state_transitions: Option<IgnoredAny>,
}

impl WireShape {
    /// An empty id names nothing; the envelope passes over it, too.
    fn names_order(&self) -> bool {
        self.order_id.as_ref().is_some_and(|id| !id.0.is_empty())
    }

    fn is_order(&self) -> bool {
        let parts = [&self.items, &self.payment, &self.charges, &self.state_transitions];
        !self.names_order() && parts.iter().any(|part| part.is_some())
    }
}

/// The charges of an order: under `payment`, and in older events directly under the order.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct WireOrderCharges {
    payment: Option<WirePayment>,
    charges: Option<Vec<WireCharge>>,
}

#[derive(Deserialize, JsonSchema)]
struct WirePayment {
    charges: Option<Vec<WireCharge>>,
}

impl WireOrderCharges {
    fn into_charges(self) -> Vec<WireCharge> {
        self.payment.and_then(|payment| payment.charges).or(self.charges).unwrap_or_default()
    }
}
