//! `/webhooks`: the registrations that decide where Digital River delivers events.

pub mod apply;
pub mod config;
pub mod model;
pub mod plan;
pub mod watch;

use std::collections::BTreeSet;

use riverlock_schemas::Mode;
use serde_json::Value;

use crate::{
    client::{Answer, Call, Client, Priority},
    failure::Error,
    page::Page,
};

pub use config::WebhookConfig;
pub use model::{Basic, OAuth, Registration, Spec, Transport};

/// Most webhooks in the answer of the list, which has no cursors. Source: Digital River, Webhooks API.
pub const LIST_MAX: usize = 100;

/// The listed registrations.
#[derive(Clone, Debug)]
pub struct Registrations {
    /// The registrations, sorted by creation time and id.
    pub webhooks: Vec<Registration>,
    /// Whether the list may be incomplete: the answer was full or says that there are more, and there are no cursors.
    pub truncated: bool,
}

/// Lists the registrations of a mode. If the account has more than fit into one answer, those that send one of `types` are
/// also listed type by type.
///
/// # Errors
/// When Digital River does not answer with a list.
pub async fn list(
    client: &Client,
    mode: Mode,
    types: &BTreeSet<&str>,
    priority: Priority,
) -> Result<Registrations, Error> {
    let (mut webhooks, mut truncated) = list_once(client, mode, None, priority).await?;
    if truncated && !types.is_empty() {
        truncated = false;
        for name in types {
            let (found, more) = list_once(client, mode, Some(name), priority).await?;
            truncated |= more;
            for webhook in found {
                if webhooks.iter().all(|known| known.id != webhook.id) {
                    webhooks.push(webhook);
                }
            }
        }
    }
    webhooks.sort_by(|a, b| (a.created_time, &a.id).cmp(&(b.created_time, &b.id)));
    Ok(Registrations { webhooks, truncated })
}

/// Lists once. The second value is whether the answer may be incomplete.
async fn list_once(
    client: &Client,
    mode: Mode,
    event_type: Option<&str>,
    priority: Priority,
) -> Result<(Vec<Registration>, bool), Error> {
    let mut call = Call::get("webhooks_list", &["webhooks"]).priority(priority);
    if let Some(name) = event_type {
        call = call.query("type", name);
    }
    let answer = client.send(mode, &call).await?;
    let unreadable = |cause: String| client.unreadable(mode, &call, &answer, cause);
    let page = Page::read(&answer.body).map_err(unreadable)?;
    let read = |element: &serde_json::value::RawValue| -> Result<Registration, String> {
        let value: Value = serde_json::from_str(element.get()).map_err(|error| error.to_string())?;
        Registration::read(&value)
    };
    let webhooks: Vec<Registration> =
        page.data.iter().map(|element| read(element)).collect::<Result<_, _>>().map_err(unreadable)?;
    let truncated = page.has_more || webhooks.len() >= LIST_MAX;
    Ok((webhooks, truncated))
}

/// Fetches one registration.
///
/// # Errors
/// When there is no registration with this id, or Digital River does not return it.
pub async fn get(client: &Client, mode: Mode, id: &str) -> Result<Registration, Error> {
    let path = ["webhooks", id];
    let call = Call::get("webhooks_get", &path);
    let answer = client.send(mode, &call).await?;
    read(client, mode, &call, &answer)
}

/// Registers a webhook.
///
/// # Errors
/// When Digital River rejects the request or does not answer; [`Error::is_ambiguous`] tells whether it may be registered.
pub async fn create(client: &Client, mode: Mode, spec: &Spec) -> Result<Registration, Error> {
    let body = spec.to_request();
    let call = Call::post("webhooks_create", &["webhooks"], &body);
    let answer = client.send(mode, &call).await?;
    read(client, mode, &call, &answer)
}

/// Changes a registration. Every field is sent, because an omitted field may be reset to its default.
///
/// # Errors
/// When Digital River rejects the request or does not answer.
pub async fn update(client: &Client, mode: Mode, id: &str, spec: &Spec) -> Result<Registration, Error> {
    let (path, body) = (["webhooks", id], spec.to_request());
    let call = Call::patch("webhooks_update", &path, &body);
    let answer = client.send(mode, &call).await?;
    read(client, mode, &call, &answer)
}

/// Deletes a registration permanently. A missing one counts as deleted if an earlier attempt may have deleted it.
///
/// # Errors
/// When Digital River rejects the request or does not answer.
pub async fn delete(client: &Client, mode: Mode, id: &str) -> Result<(), Error> {
    let path = ["webhooks", id];
    match client.send(mode, &Call::delete("webhooks_delete", &path)).await {
        Ok(_) => Ok(()),
        Err(error) if error.status() == Some(404) && error.attempts > 1 => Ok(()),
        Err(error) => Err(error),
    }
}

fn read(client: &Client, mode: Mode, call: &Call<'_>, answer: &Answer) -> Result<Registration, Error> {
    let value = serde_json::from_slice(&answer.body).map_err(|error| error.to_string());
    value.and_then(|value| Registration::read(&value)).map_err(|cause| client.unreadable(mode, call, answer, cause))
}
