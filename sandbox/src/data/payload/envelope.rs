//! The envelope around every object, and the objects that are not orders.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Moment, Money, Snapshot, Stamp};
use crate::data::order::Order;

/// The address in Digital River's file objects. A receiver must use its configured address instead.
const FILES_ADDRESS: &str = "https://api.digitalriver.com/files";

/// The fields of an envelope.
#[derive(Debug, Clone)]
pub(crate) struct Envelope {
    pub(crate) id: String,
    pub(crate) event_type: &'static str,
    pub(crate) live: bool,
    pub(crate) created: DateTime<Utc>,
    pub(crate) versions: Versions,
}

/// Which of the documented optional fields the envelope has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Versions {
    /// `webhookIds` and `digitalriverVersion`.
    Webhooks,
    /// `digitalRiverVersion`, with a capital R.
    CapitalRiver,
    /// `versionIds`, empty.
    Ids,
    /// None of them.
    Absent,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a, T, P> {
    id: &'a str,
    r#type: &'static str,
    data: Data<'a, T, P>,
    live_mode: bool,
    created_time: Stamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_ids: Option<[&'static str; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_ids: Option<[&'static str; 0]>,
    #[serde(rename = "digitalriverVersion", skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    #[serde(rename = "digitalRiverVersion", skip_serializing_if = "Option::is_none")]
    capital_version: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a, T, P> {
    object: &'a T,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_attributes: Option<P>,
}

/// An `order.*` event: the whole order as it is at `moment`. `previous_state` adds `previousAttributes`.
pub(crate) fn order_body(
    envelope: &Envelope,
    order: &Order,
    moment: &Moment,
    previous_state: Option<&'static str>,
) -> Vec<u8> {
    #[derive(Serialize)]
    struct Previous {
        state: &'static str,
    }
    body(envelope, &Snapshot::new(order, moment), previous_state.map(|state| Previous { state }))
}

/// `order.invoice.created` or `order.credit_memo.created`: a file of an order.
pub(crate) fn file_body(envelope: &Envelope, order: &Order, file_id: &str, purpose: &'static str) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct File<'a> {
        id: &'a str,
        file_id: &'a str,
        order_id: &'a str,
        customer_id: &'a str,
        purpose: &'static str,
        #[serde(rename = "invoiceURL")]
        invoice_url: String,
    }
    let file = File {
        id: file_id,
        file_id,
        order_id: &order.id,
        customer_id: &order.customer_id,
        purpose,
        invoice_url: format!("{FILES_ADDRESS}/{file_id}/content"),
    };
    body(envelope, &file, None::<()>)
}

/// An event that has nothing to do with an order: of a customer, a subscription, or (without any id in its object) a
/// payout.
pub(crate) fn unknown_body(envelope: &Envelope, object_id: &str, amount: i64) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Object<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        created_time: Stamp,
        #[serde(skip_serializing_if = "Option::is_none")]
        amount: Option<Money>,
        #[serde(skip_serializing_if = "Option::is_none")]
        currency: Option<&'static str>,
        live_mode: bool,
    }
    let has_money = envelope.event_type != "customer.updated";
    let object = Object {
        id: (envelope.event_type != "payout.created").then_some(object_id),
        created_time: Stamp(envelope.created),
        amount: has_money.then_some(Money(amount)),
        currency: has_money.then_some("EUR"),
        live_mode: envelope.live,
    };
    body(envelope, &object, None::<()>)
}

fn body<T: Serialize, P: Serialize>(envelope: &Envelope, object: &T, previous_attributes: Option<P>) -> Vec<u8> {
    let versions = envelope.versions;
    let event = Event {
        id: &envelope.id,
        r#type: envelope.event_type,
        data: Data { object, previous_attributes },
        live_mode: envelope.live,
        created_time: Stamp(envelope.created),
        webhook_ids: matches!(versions, Versions::Webhooks)
            .then_some(["7c0f2f0e-90a5-4f0e-8e55-5d5b0a3f7d11", "1f6c2d5b-3f0d-4c2e-a1f6-2b9d8c7e6a50"]),
        version_ids: matches!(versions, Versions::Ids).then_some([]),
        version: matches!(versions, Versions::Webhooks).then_some("2021-12-13"),
        capital_version: matches!(versions, Versions::CapitalRiver).then_some("2021-03-23"),
    };
    serde_json::to_vec(&event).expect("strings, numbers and maps with text keys always serialize")
}
