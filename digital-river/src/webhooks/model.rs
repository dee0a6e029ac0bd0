//! Webhooks in Digital River's requests and answers.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use riverlock_runtime::Secret;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Shown in place of a secret.
pub const MASK: &str = "********";

/// How Digital River authenticates at the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `HTTP`, with basic authentication or with only the signature.
    Http(Option<Basic>),
    /// `OAUTH`: a token is fetched first.
    OAuth(OAuth),
    /// A transport that this version does not know.
    Unknown(String),
}

/// `authentication` of `transportType: HTTP`. Debug output and JSON do not contain the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Basic {
    /// The user name.
    pub username: String,
    /// The password; `None` when Digital River does not return it.
    pub password: Option<Secret>,
}

/// `oauth` of `transportType: OAUTH`. Debug output and JSON do not contain the secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuth {
    /// Where Digital River fetches the token.
    pub token_endpoint: String,
    /// The client's id.
    pub client_id: String,
    /// The client's secret; `None` when Digital River does not return it.
    pub client_secret: Option<Secret>,
    /// The user name, with grant type `password`.
    pub username: Option<String>,
    /// The user's password; `None` when there is none or Digital River does not return it.
    pub password: Option<Secret>,
    /// `password` or `client_credentials`.
    pub grant_type: Option<String>,
}

/// A webhook as Digital River returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Digital River's id.
    pub id: String,
    /// Its settings.
    pub spec: Spec,
    /// Whether it sends live data; `None` if the answer does not contain it.
    pub live_mode: Option<bool>,
    /// When it was registered.
    pub created_time: Option<DateTime<Utc>>,
    /// When it was last changed, also by Digital River, for example when it was disabled.
    pub updated_time: Option<DateTime<Utc>>,
}

/// Settings of a webhook: all fields of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Event types; a value such as `order.*` is a group.
    pub types: BTreeSet<String>,
    /// The address.
    pub address: String,
    /// Whether it sends events.
    pub enabled: bool,
    /// `default`, `latest` or a date.
    pub api_version: String,
    /// How Digital River authenticates.
    pub transport: Transport,
}

impl Registration {
    /// Parses a webhook tolerantly: only id and address are required.
    ///
    /// # Errors
    /// When the value is not a webhook.
    pub fn read(value: &Value) -> Result<Self, String> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let time = |name: &str| {
            let time = DateTime::parse_from_rfc3339(text(name)?).ok()?;
            Some(time.to_utc())
        };
        let id = text("id").filter(|id| !id.is_empty()).ok_or("a webhook has no `id`")?;
        let address = text("address").ok_or("a webhook has no `address`")?;
        let types = value.get("types").and_then(Value::as_array).into_iter().flatten();
        Ok(Self {
            id: id.to_owned(),
            spec: Spec {
                types: types.filter_map(Value::as_str).map(str::to_owned).collect(),
                address: address.to_owned(),
                enabled: value.get("enabled").and_then(Value::as_bool).unwrap_or(true),
                api_version: text("apiVersion").unwrap_or("default").to_owned(),
                transport: read_transport(value),
            },
            live_mode: value.get("liveMode").and_then(Value::as_bool),
            created_time: time("createdTime"),
            updated_time: time("updatedTime"),
        })
    }

    /// The webhook as JSON with masked secrets.
    #[must_use]
    pub fn to_masked_json(&self) -> Value {
        let mut value = self.spec.to_json(|_| MASK.to_owned());
        value["id"] = json!(self.id);
        value["liveMode"] = json!(self.live_mode);
        value["createdTime"] = json!(self.created_time);
        value["updatedTime"] = json!(self.updated_time);
        value
    }
}

fn read_transport(value: &Value) -> Transport {
    // Source: Digital River uses `username` in one place and `userName` in another.
    let read = |object: &Value, names: &[&str]| -> Option<String> {
        names.iter().find_map(|name| object.get(*name)?.as_str()).map(str::to_owned)
    };
    let user = ["username", "userName"];
    match value.get("transportType").and_then(Value::as_str).unwrap_or("HTTP") {
        "HTTP" => {
            let basic = value.get("authentication").filter(|value| value.is_object());
            let basic = basic.and_then(|object| {
                let password = read(object, &["password"]).map(Secret::new);
                Some(Basic { username: read(object, &user)?, password })
            });
            Transport::Http(basic)
        }
        "OAUTH" => {
            let none = Value::Null;
            let object = value.get("oauth").unwrap_or(&none);
            Transport::OAuth(OAuth {
                token_endpoint: read(object, &["tokenEndPoint", "tokenEndpoint"]).unwrap_or_default(),
                client_id: read(object, &["clientID", "clientId"]).unwrap_or_default(),
                client_secret: read(object, &["clientSecret"]).map(Secret::new),
                username: read(object, &user),
                password: read(object, &["password"]).map(Secret::new),
                grant_type: read(object, &["grantType"]),
            })
        }
        other => Transport::Unknown(other.to_owned()),
    }
}

impl Spec {
    /// The body of a request that creates or changes the webhook: every field, secrets included.
    #[must_use]
    pub fn to_request(&self) -> Value {
        self.to_json(|secret| secret.expose().to_owned())
    }

    /// Whether all secrets that the transport needs are known.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        match &self.transport {
            Transport::Http(basic) => basic.as_ref().is_none_or(|basic| basic.password.is_some()),
            Transport::OAuth(oauth) => {
                oauth.client_secret.is_some() && (oauth.username.is_none() || oauth.password.is_some())
            }
            Transport::Unknown(_) => false,
        }
    }

    fn to_json(&self, show: impl Fn(&Secret) -> String) -> Value {
        let mut value = json!({
            "types": self.types,
            "address": self.address,
            "enabled": self.enabled,
            "apiVersion": self.api_version,
        });
        match &self.transport {
            Transport::Http(basic) => {
                value["transportType"] = json!("HTTP");
                if let Some(basic) = basic {
                    let mut object = Map::new();
                    object.insert("username".into(), json!(basic.username));
                    if let Some(password) = &basic.password {
                        object.insert("password".into(), json!(show(password)));
                    }
                    value["authentication"] = Value::Object(object);
                }
            }
            Transport::OAuth(oauth) => {
                value["transportType"] = json!("OAUTH");
                let mut object = Map::new();
                object.insert("tokenEndPoint".into(), json!(oauth.token_endpoint));
                object.insert("clientID".into(), json!(oauth.client_id));
                for (name, secret) in [("clientSecret", &oauth.client_secret), ("password", &oauth.password)] {
                    if let Some(secret) = secret {
                        object.insert(name.into(), json!(show(secret)));
                    }
                }
                for (name, text) in [("userName", &oauth.username), ("grantType", &oauth.grant_type)] {
                    if let Some(text) = text {
                        object.insert(name.into(), json!(text));
                    }
                }
                value["oauth"] = Value::Object(object);
            }
            Transport::Unknown(name) => value["transportType"] = json!(name),
        }
        value
    }
}

impl Transport {
    /// Short name for tables.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Http(None) => "HTTP",
            Self::Http(Some(_)) => "HTTP with password",
            Self::OAuth(_) => "OAUTH",
            Self::Unknown(name) => name,
        }
    }
}

impl Serialize for Registration {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_masked_json().serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OAUTH: &str = r#"{"id":"1","types":["order.complete","order.accepted"],"address":"https://h.example/a",
        "transportType":"OAUTH","oauth":{"tokenEndPoint":"https://h.example/token","clientID":"c","clientSecret":"s3cret-1",
        "userName":"u","password":"s3cret-2","grantType":"password"},"createdTime":"2026-10-02T08:15:30.412Z","new":1}"#;

    #[test]
    fn secrets_are_sent_and_never_shown() {
        let webhook = Registration::read(&serde_json::from_str(OAUTH).unwrap()).unwrap();
        assert!(webhook.spec.has_secrets() && webhook.spec.enabled);
        let sent = webhook.spec.to_request();
        assert_eq!((&sent["oauth"]["clientSecret"], &sent["oauth"]["userName"]), (&json!("s3cret-1"), &json!("u")));
        assert_eq!(sent.as_object().unwrap().keys().count(), 6, "every field is sent: {sent}");
        for shown in
            [format!("{webhook:?}"), webhook.to_masked_json().to_string(), serde_json::to_string(&webhook).unwrap()]
        {
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }

    #[test]
    fn both_spellings_of_the_user_name_are_parsed() {
        for user in ["username", "userName"] {
            let value = json!({ "id": "1", "address": "https://h", "authentication": { user: "dr", "password": "p" } });
            let webhook = Registration::read(&value).unwrap();
            let Transport::Http(Some(basic)) = webhook.spec.transport else { panic!("{webhook:?}") };
            assert_eq!(basic.username, "dr");
        }
    }

    #[test]
    fn values_that_are_not_webhooks_are_rejected() {
        for value in [json!({}), json!({ "id": "" , "address": "x" }), json!({ "id": "1" }), json!([]), json!(null)] {
            assert!(Registration::read(&value).is_err(), "{value}");
        }
    }
}
