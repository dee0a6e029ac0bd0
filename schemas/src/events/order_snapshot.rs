//! Order snapshots: an order as contained in one event.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
};

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::MapAccess};

use crate::{
    LineId,
    events::{
        order_state::{LineState, OrderState},
        payload::{self, PayloadError, Times},
    },
    oddity::Oddity,
    wire::{
        Member, Members,
        number::{Money, Quantity},
        scalar::{Flag, Id, StateName, Text, text},
        time::{State, Time, Transitions},
    },
};

/// An order as contained in one event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrderSnapshot {
    /// Orders the snapshots of one order. `None` if it is absent, invalid or in the future; then the event's time is used.
    ///
    /// Source: Digital River's order `updatedTime`.
    pub updated_time: Option<DateTime<Utc>>,
    /// The order's current state.
    pub state: Option<OrderState>,
    /// Every state reached so far with its time; `None` if the time is invalid.
    ///
    /// Source: Digital River's order `stateTransitions`. So an `order.complete` that arrives before `order.accepted` contains
    /// the time of acceptance.
    pub transitions: Vec<(OrderState, Option<DateTime<Utc>>)>,
    /// Names of states that this version does not know.
    pub unknown_states: BTreeSet<String>,
    /// Fields that can change from snapshot to snapshot.
    pub details: OrderDetails,
    /// The order's lines, each id once.
    pub lines: Vec<LineSnapshot>,
}

/// The fields of a snapshot of which the newest value counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OrderDetails {
    /// Digital River's name of the order's state.
    pub state: Option<String>,
    /// `review_opened`, `blocked` or `passed`.
    pub fraud_state: Option<String>,
    /// ISO 4217 code.
    pub currency: Option<String>,
    /// The amount that the customer pays, in `currency`.
    pub total_amount: Option<Decimal>,
    /// Digital River's id of the customer.
    pub customer_id: Option<String>,
    /// The Digital River company that sells, which determines whether a VAT invoice is created.
    pub selling_entity_id: Option<String>,
    /// The merchant's own id of the order.
    pub upstream_id: Option<String>,
    /// The shipping service, as named in Digital River's `shippingChoice`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_level: Option<String>,
    /// Recipient of physical lines; `None` for digital orders.
    pub ship_to: Option<ShipTo>,
}

/// A name and an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct ShipTo {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line1: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line2: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postal_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
}

/// One line (item) as contained in one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineSnapshot {
    /// The line's id.
    pub line_id: LineId,
    /// Every state reached so far with its time; `None` if the time is invalid.
    pub transitions: Vec<(LineState, Option<DateTime<Utc>>)>,
    /// Fields that can change from snapshot to snapshot.
    pub details: LineDetails,
}

/// The fields of a line of which the newest value counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineDetails {
    /// Digital River's name of the line's state.
    pub state: Option<String>,
    /// The merchant's id of the product.
    pub sku_id: Option<String>,
    /// Units ordered.
    pub quantity: Option<i64>,
    /// Whether the product is physical; only expanded events contain it.
    pub physical: Option<bool>,
}

impl State for OrderState {
    fn named(name: &str) -> Option<Self> {
        Self::parse(name)
    }

    fn name(self) -> &'static str {
        self.as_str()
    }
}

impl State for LineState {
    fn named(name: &str) -> Option<Self> {
        Self::parse(name)
    }

    fn name(self) -> &'static str {
        self.as_str()
    }
}

/// The fields of Digital River's order that are read, as documented.
#[derive(Debug, Default, PartialEq, JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub(crate) struct WireOrder {
    pub(crate) id: Option<Id>,
    updated_time: Option<Time>,
    pub(crate) state: Option<StateName>,
    pub(crate) state_transitions: Option<Transitions<OrderState>>,
    fraud_state: Option<Text>,
    pub(crate) currency: Option<Text>,
    total_amount: Option<Money>,
    customer_id: Option<Text>,
    selling_entity: Option<WireSellingEntity>,
    upstream_id: Option<Text>,
    shipping_choice: Option<WireShippingChoice>,
    ship_to: Option<WireShipTo>,
    pub(crate) items: Option<Vec<WireItem>>,
}

impl<'de> Members<'de> for WireOrder {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, value: Member<'_, A>) -> Result<(), A::Error> {
        match key {
            "id" => value.value(&mut self.id),
            "updatedTime" => value.value(&mut self.updated_time),
            "state" => value.value(&mut self.state),
            "stateTransitions" => value.value(&mut self.state_transitions),
            "fraudState" => value.value(&mut self.fraud_state),
            "currency" => value.value(&mut self.currency),
            "totalAmount" => value.value(&mut self.total_amount),
            "customerId" => value.value(&mut self.customer_id),
            "sellingEntity" => value.object(&mut self.selling_entity),
            "upstreamId" => value.value(&mut self.upstream_id),
            "shippingChoice" => value.object(&mut self.shipping_choice),
            "shipTo" => value.object(&mut self.ship_to),
            "items" => value.list(&mut self.items),
            _ => value.ignore(),
        }
    }
}

#[derive(Debug, Default, PartialEq, JsonSchema)]
struct WireSellingEntity {
    id: Option<Text>,
}

impl<'de> Members<'de> for WireSellingEntity {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, value: Member<'_, A>) -> Result<(), A::Error> {
        if key == "id" { value.value(&mut self.id) } else { value.ignore() }
    }

    fn from_text(text: Cow<'de, str>) -> Option<Self> {
        Some(Self { id: Some(Text::new(text)?) })
    }
}

#[derive(Debug, Default, PartialEq, JsonSchema)]
#[schemars(rename_all = "camelCase")]
struct WireShippingChoice {
    service_level: Option<Text>,
}

impl<'de> Members<'de> for WireShippingChoice {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, value: Member<'_, A>) -> Result<(), A::Error> {
        if key == "serviceLevel" { value.value(&mut self.service_level) } else { value.ignore() }
    }

    fn from_text(text: Cow<'de, str>) -> Option<Self> {
        Some(Self { service_level: Some(Text::new(text)?) })
    }
}

#[derive(Debug, Default, PartialEq, JsonSchema)]
struct WireShipTo {
    name: Option<Text>,
    phone: Option<Text>,
    address: Option<WireAddress>,
}

impl<'de> Members<'de> for WireShipTo {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, value: Member<'_, A>) -> Result<(), A::Error> {
        match key {
            "name" => value.value(&mut self.name),
            "phone" => value.value(&mut self.phone),
            "address" => value.object(&mut self.address),
            _ => value.ignore(),
        }
    }
}

#[derive(Debug, Default, PartialEq, JsonSchema)]
#[schemars(rename_all = "camelCase")]
struct WireAddress {
    line1: Option<Text>,
    line2: Option<Text>,
    city: Option<Text>,
    postal_code: Option<Text>,
    state: Option<Text>,
    country: Option<Text>,
}

impl<'de> Members<'de> for WireAddress {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, value: Member<'_, A>) -> Result<(), A::Error> {
        match key {
            "line1" => value.value(&mut self.line1),
            "line2" => value.value(&mut self.line2),
            "city" => value.value(&mut self.city),
            "postalCode" => value.value(&mut self.postal_code),
            "state" => value.value(&mut self.state),
            "country" => value.value(&mut self.country),
            _ => value.ignore(),
        }
    }
}

#[derive(Debug, Default, PartialEq, JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub(crate) struct WireItem {
    id: Option<Id>,
    sku_id: Option<Text>,
    quantity: Option<Quantity>,
    state: Option<StateName>,
    state_transitions: Option<Transitions<LineState>>,
    product_details: Option<WireProduct>,
}

impl<'de> Members<'de> for WireItem {
    // An invalid element may have been a line, and a line must not be dropped silently.
    const IS_STRICT: bool = true;

    fn member<A: MapAccess<'de>>(&mut self, key: &str, value: Member<'_, A>) -> Result<(), A::Error> {
        match key {
            "id" => value.value(&mut self.id),
            "skuId" => value.value(&mut self.sku_id),
            "quantity" => value.value(&mut self.quantity),
            "state" => value.value(&mut self.state),
            "stateTransitions" => value.value(&mut self.state_transitions),
            "productDetails" => value.object(&mut self.product_details),
            _ => value.ignore(),
        }
    }
}

#[derive(Debug, Default, PartialEq, JsonSchema)]
struct WireProduct {
    id: Option<Text>,
    physical: Option<Flag>,
}

impl<'de> Members<'de> for WireProduct {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, value: Member<'_, A>) -> Result<(), A::Error> {
        match key {
            "id" => value.value(&mut self.id),
            "physical" => value.value(&mut self.physical),
            _ => value.ignore(),
        }
    }

    fn from_text(text: Cow<'de, str>) -> Option<Self> {
        Some(Self { id: Some(Text::new(text)?), physical: None })
    }
}

impl WireOrder {
    pub(crate) fn into_snapshot(self, times: Times<'_>) -> Result<OrderSnapshot, PayloadError> {
        let updated_time = times.updated(self.updated_time);
        if updated_time.is_none() {
            times.notes().add(Oddity::TimeReplaced);
        }
        let as_of = updated_time.or_else(|| times.of_event());
        let state = self.state.map(|StateName(name)| name);
        let known = state.as_deref().and_then(OrderState::parse);
        let (transitions, unknown) = self.state_transitions.unwrap_or_default().split();
        let mut unknown_states: BTreeSet<String> = unknown.collect();
        if known.is_none() {
            unknown_states.extend(state.clone());
        }
        Ok(OrderSnapshot {
            updated_time,
            state: known,
            transitions: reached(transitions, as_of, times),
            unknown_states,
            lines: lines(self.items.unwrap_or_default(), as_of, times)?,
            details: OrderDetails {
                state,
                fraud_state: text(self.fraud_state),
                currency: text(self.currency),
                total_amount: Money::amount(self.total_amount).map_err(PayloadError::Shape)?,
                customer_id: text(self.customer_id),
                selling_entity_id: self.selling_entity.and_then(|entity| text(entity.id)),
                upstream_id: text(self.upstream_id),
                service_level: self.shipping_choice.and_then(|choice| text(choice.service_level)),
                ship_to: self.ship_to.map(WireShipTo::into_ship_to),
            },
        })
    }
}

/// States with their valid times.
fn reached<S>(
    transitions: Vec<(S, Time)>,
    as_of: Option<DateTime<Utc>>,
    times: Times<'_>,
) -> Vec<(S, Option<DateTime<Utc>>)> {
    transitions.into_iter().map(|(state, time)| (state, times.reached(time, as_of))).collect()
}

/// The lines, each id once. A repeated line counts once unless its product or quantity contradicts the first.
fn lines(
    items: Vec<WireItem>,
    as_of: Option<DateTime<Utc>>,
    times: Times<'_>,
) -> Result<Vec<LineSnapshot>, PayloadError> {
    let mut lines = BTreeMap::new();
    for (index, item) in items.into_iter().enumerate() {
        let line = item.into_line(index, as_of, times)?;
        match lines.entry(line.line_id.clone()) {
            Entry::Vacant(entry) => drop(entry.insert(line)),
            Entry::Occupied(mut entry) => {
                times.notes().add(Oddity::RepeatedLine);
                entry.get_mut().join(line)?;
            }
        }
    }
    Ok(lines.into_values().collect())
}

impl WireShipTo {
    fn into_ship_to(self) -> ShipTo {
        let address = self.address.unwrap_or_default();
        ShipTo {
            name: text(self.name),
            phone: text(self.phone),
            line1: text(address.line1),
            line2: text(address.line2),
            city: text(address.city),
            postal_code: text(address.postal_code),
            state: text(address.state),
            country: text(address.country),
        }
    }
}

impl WireItem {
    fn into_line(
        self,
        index: usize,
        as_of: Option<DateTime<Utc>>,
        times: Times<'_>,
    ) -> Result<LineSnapshot, PayloadError> {
        let line_id = payload::id_text(self.id, times.notes()).and_then(LineId::parse);
        let product = self.product_details;
        let physical = product.as_ref().and_then(|product| product.physical).map(|flag| flag.0);
        // Items without `skuId` name their product in `productDetails`.
        let sku_id = text(self.sku_id).or_else(|| product.and_then(|product| text(product.id)));
        Ok(LineSnapshot {
            line_id: line_id.map_err(|source| PayloadError::LineId { index, source })?,
            transitions: reached(self.state_transitions.unwrap_or_default().split().0, as_of, times),
            details: LineDetails {
                state: self.state.map(|StateName(name)| name),
                sku_id,
                quantity: Quantity::units(self.quantity).map_err(PayloadError::Shape)?,
                physical,
            },
        })
    }
}

impl LineSnapshot {
    /// Adds the fields of a repeated line.
    fn join(&mut self, other: Self) -> Result<(), PayloadError> {
        let Self { line_id, transitions, details } = other;
        if contradict(&self.details.sku_id, &details.sku_id) || contradict(&self.details.quantity, &details.quantity) {
            return Err(PayloadError::LineTwice(line_id));
        }
        self.details.join(details);
        for (state, time) in transitions {
            match self.transitions.iter_mut().find(|(known, _)| *known == state) {
                Some((_, known)) => *known = earlier(*known, time),
                None => self.transitions.push((state, time)),
            }
        }
        Ok(())
    }
}

/// The earlier of two times. `None` is later than any time.
fn earlier(one: Option<DateTime<Utc>>, other: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    one.into_iter().chain(other).min()
}

fn contradict<T: PartialEq>(one: &Option<T>, other: &Option<T>) -> bool {
    one.is_some() && other.is_some() && one != other
}

impl OrderDetails {
    /// Adds the fields of another spelling of the same snapshot. Of two different values the greater counts, so that the result
    /// does not depend on their order; an address counts as a whole.
    pub fn join(&mut self, other: Self) {
        let Self {
            state,
            fraud_state,
            currency,
            total_amount,
            customer_id,
            selling_entity_id,
            upstream_id,
            service_level,
            ship_to,
        } = other;
        keep_greater(&mut self.state, state);
        keep_greater(&mut self.fraud_state, fraud_state);
        keep_greater(&mut self.currency, currency);
        keep_greater(&mut self.total_amount, total_amount);
        keep_greater(&mut self.customer_id, customer_id);
        keep_greater(&mut self.selling_entity_id, selling_entity_id);
        keep_greater(&mut self.upstream_id, upstream_id);
        keep_greater(&mut self.service_level, service_level);
        keep_greater(&mut self.ship_to, ship_to);
    }
}

impl LineDetails {
    /// Adds the fields of another spelling of the same snapshot; of two different values the greater counts.
    pub fn join(&mut self, other: Self) {
        let Self { state, sku_id, quantity, physical } = other;
        keep_greater(&mut self.state, state);
        keep_greater(&mut self.sku_id, sku_id);
        keep_greater(&mut self.quantity, quantity);
        keep_greater(&mut self.physical, physical);
    }
}

/// Keeps the greater of two values. Any value is greater than `None`.
fn keep_greater<T: Ord>(known: &mut Option<T>, other: Option<T>) {
    if other > *known {
        *known = other;
    }
}
