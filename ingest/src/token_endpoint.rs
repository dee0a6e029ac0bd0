//! Where Digital River fetches the token that it then sends with every event.
//!
//! Source: with `transportType: OAUTH` it sends `grant_type`, `client_id`, `client_secret`, `username` and `password` as a
//! form, as Salesforce wants it, and expects Salesforce's answer. Errors are those of RFC 6749, section 5.2. Whether a client
//! exists shows in nothing: the same answers, the same work.

use std::time::{Duration, Instant};

use axum::{
    Json,
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts, uri::Authority},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::{
    authentication::authorization,
    body, credentials,
    guesses::Guesses,
    handler::Ingest,
    metrics::{PROCESS, TokenOutcome},
    refusal::Refusal,
    server::Peer,
    token::{Client, Grant, GrantError},
};

/// Longest form, in bytes.
const FORM_BYTES_MAX: usize = 16 * 1024;

/// Most requests for a token at once.
const AT_ONCE_MAX: usize = 32;

/// How long a client that guesses too much is told to wait.
const LIMITED_RETRY_AFTER_SECONDS: u16 = 60;

/// What all requests for tokens share, whatever the configuration.
pub(crate) struct TokenEndpoint {
    guesses: Guesses,
    places: Semaphore,
}

impl TokenEndpoint {
    pub(crate) fn new() -> Self {
        Self { guesses: Guesses::new(), places: Semaphore::new(AT_ONCE_MAX) }
    }
}

/// Why there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenError {
    /// The request is no form, or says a thing twice, or lacks one.
    Request(&'static str),
    Client,
    User,
    UserMissing,
    GrantType,
    Limited,
    Busy,
}

impl TokenError {
    fn status(self) -> StatusCode {
        match self {
            Self::Request(_) | Self::User | Self::UserMissing | Self::GrantType => StatusCode::BAD_REQUEST,
            Self::Client => StatusCode::UNAUTHORIZED,
            Self::Limited => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::Request(what) => ("invalid_request", what),
            Self::Client => ("invalid_client", "client_id or client_secret is not as configured here"),
            Self::User => ("invalid_grant", "username or password is not as configured here"),
            Self::UserMissing => ("unauthorized_client", "this client has a user: grant_type must be password"),
            Self::GrantType => ("unsupported_grant_type", "grant_type must be password or client_credentials"),
            Self::Limited => ("temporarily_unavailable", "too many failures: try again later"),
            Self::Busy => ("temporarily_unavailable", "try again"),
        }
    }

    fn outcome(self) -> TokenOutcome {
        match self {
            Self::Request(_) => TokenOutcome::InvalidRequest,
            Self::Client => TokenOutcome::InvalidClient,
            Self::User => TokenOutcome::InvalidGrant,
            Self::UserMissing => TokenOutcome::UnauthorizedClient,
            Self::GrantType => TokenOutcome::UnsupportedGrantType,
            Self::Limited => TokenOutcome::Limited,
            Self::Busy => TokenOutcome::Busy,
        }
    }
}

impl From<GrantError> for TokenError {
    fn from(error: GrantError) -> Self {
        match error {
            GrantError::Client => Self::Client,
            GrantError::User => Self::User,
            GrantError::UserMissing => Self::UserMissing,
        }
    }
}

#[derive(Serialize)]
struct ErrorBody {
    error: &'static str,
    error_description: &'static str,
}

impl IntoResponse for TokenError {
    fn into_response(self) -> Response {
        let (error, error_description) = self.texts();
        let mut response = (self.status(), Json(ErrorBody { error, error_description })).into_response();
        let headers = response.headers_mut();
        match self {
            Self::Client => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"riverlock\""));
            }
            Self::Limited => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(LIMITED_RETRY_AFTER_SECONDS));
            }
            Self::Busy => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(1_u16));
            }
            Self::Request(_) | Self::User | Self::UserMissing | Self::GrantType => {}
        }
        response
    }
}

/// The answer with a token, as Salesforce's.
#[derive(Serialize)]
struct Granted {
    access_token: String,
    instance_url: String,
    id: String,
    token_type: &'static str,
    /// In milliseconds since 1970, as a text: so Salesforce writes it.
    issued_at: String,
    signature: String,
    /// In seconds.
    expires_in: i64,
}

/// Answers a request to one of the token paths.
pub(crate) async fn handle(ingest: &Ingest, parts: Parts, mut body: Body) -> Response {
    if parts.method != Method::POST {
        return Refusal::MethodNotAllowed.into_response();
    }
    let (outcome, mut response) = match answer(ingest, &parts, &mut body).await {
        Ok(granted) => (TokenOutcome::Issued, Json(granted).into_response()),
        Err(Failure::Token(error)) => (error.outcome(), error.into_response()),
        Err(Failure::Other(refusal)) => (TokenOutcome::InvalidRequest, refusal.into_response()),
    };
    PROCESS.token_requests(outcome);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

enum Failure {
    Token(TokenError),
    Other(Refusal),
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

async fn answer(ingest: &Ingest, parts: &Parts, body: &mut Body) -> Result<Granted, Failure> {
    let _place = ingest.tokens.places.try_acquire().map_err(|_| TokenError::Busy)?;
    let endpoints = ingest.endpoints.load_full();
    let address = endpoints.address(parts.extensions.get::<Peer>(), &parts.headers);
    if !endpoints.allows_token(address) {
        return Err(Failure::Other(Refusal::AddressNotAllowed));
    }
    let form = read_form(parts, body, ingest.limits.body_read_timeout).await?;
    let request = Request::read(&form, &parts.headers)?;
    let Some(attempt) = ingest.tokens.guesses.attempt(&request.client_id, address, Instant::now()) else {
        ingest.floods.warn(|| tracing::warn!(%address, "too many wrong requests for a token from {address}"));
        return Err(TokenError::Limited.into());
    };
    let secrets: Vec<&str> = request.secrets.iter().map(String::as_str).collect();
    let client = Client::find(endpoints.clients(), &request.client_id, &secrets, request.grant()).map_err(|error| {
        ingest.floods.warn(|| tracing::warn!(%address, reason = ?error, "a token was refused to {address}"));
        TokenError::from(error)
    })?;
    ingest.tokens.guesses.succeeded(&attempt);
    grant(ingest, client, &base_url(endpoints.instance_url(), parts)).ok_or_else(|| TokenError::Busy.into())
}

fn grant(ingest: &Ingest, client: &Client, base_url: &str) -> Option<Granted> {
    let now = ingest.context.clock.now();
    let id = format!("{base_url}/id/{}/{}", client.endpoint, percent_encoded(&client.id));
    let issued_at = now.timestamp_millis().to_string();
    tracing::info!(endpoint = client.endpoint, "a token for endpoint {} was issued", client.endpoint);
    Some(Granted {
        access_token: client.issue(now)?,
        instance_url: base_url.to_owned(),
        signature: STANDARD.encode(client.sign_answer(&id, &issued_at)),
        id,
        token_type: "Bearer",
        issued_at,
        expires_in: client.ttl_seconds(),
    })
}

/// What the sender calls this host, unless the configuration says it.
fn base_url(configured: Option<&str>, parts: &Parts) -> String {
    if let Some(url) = configured {
        return url.trim_end_matches('/').to_owned();
    }
    // HTTP/2 has it in the address.
    let authority = parts.uri.authority().map(Authority::as_str);
    let host = authority.or_else(|| parts.headers.get(header::HOST)?.to_str().ok()).unwrap_or("localhost");
    format!("https://{host}")
}

fn percent_encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

async fn read_form(parts: &Parts, body: &mut Body, timeout: Duration) -> Result<Bytes, Failure> {
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(TokenError::Request("Content-Type must be application/x-www-form-urlencoded").into());
    }
    body::read(body, FORM_BYTES_MAX, timeout, |_| Ok(())).await.map_err(Failure::Other)
}

/// A request for a token, read.
struct Request {
    grant_type: GrantType,
    client_id: String,
    /// All that the secret may be: in the Authorization header some encode it and some do not.
    secrets: Vec<String>,
    username: String,
    password: String,
}

enum GrantType {
    Password,
    ClientCredentials,
}

impl Request {
    fn read(form: &[u8], headers: &HeaderMap) -> Result<Self, TokenError> {
        let mut fields: [Option<String>; 5] = Default::default();
        for (key, value) in url::form_urlencoded::parse(form) {
            let names = ["grant_type", "client_id", "client_secret", "username", "password"];
            // Others mean nothing here, as `scope`.
            let Some(at) = names.iter().position(|name| *name == key) else { continue };
            if fields[at].replace(value.into_owned()).is_some() {
                return Err(TokenError::Request("a parameter stands twice"));
            }
        }
        let [grant_type, client_id, client_secret, username, password] = fields;
        let grant_type = match grant_type.as_deref() {
            Some("password") => GrantType::Password,
            Some("client_credentials") => GrantType::ClientCredentials,
            Some(_) => return Err(TokenError::GrantType),
            None => return Err(TokenError::Request("grant_type is missing")),
        };
        let (client_id, secrets) = client(client_id, client_secret, headers)?;
        let (username, password) = (username.unwrap_or_default(), password.unwrap_or_default());
        Ok(Self { grant_type, client_id, secrets, username, password })
    }

    fn grant(&self) -> Grant<'_> {
        match self.grant_type {
            GrantType::Password => Grant::Password { username: &self.username, password: &self.password },
            GrantType::ClientCredentials => Grant::ClientCredentials,
        }
    }
}

/// The client's credentials: from the header, else from the form. A form that repeats the header's id does no harm.
fn client(
    form_id: Option<String>,
    form_secret: Option<String>,
    headers: &HeaderMap,
) -> Result<(String, Vec<String>), TokenError> {
    if !headers.contains_key(header::AUTHORIZATION) {
        return match (form_id, form_secret) {
            (Some(id), Some(secret)) => Ok((id, vec![secret])),
            _ => Err(TokenError::Client),
        };
    }
    let (id, secret) = authorization(headers).and_then(credentials::basic).ok_or(TokenError::Client)?;
    let id = if form_id.as_deref() == Some(id.as_str()) { id } else { form_decoded(&id) };
    if form_id.is_some_and(|form_id| form_id != id) || form_secret.is_some_and(|other| other != secret) {
        return Err(TokenError::Request("the client is given twice, differently"));
    }
    Ok((id, vec![form_decoded(&secret), secret]))
}

/// A text as RFC 6749 wants it in the header: encoded as in a form.
fn form_decoded(text: &str) -> String {
    // What was encoded has no `&` in it.
    if text.contains('&') {
        return text.to_owned();
    }
    let pair = format!("v={text}");
    url::form_urlencoded::parse(pair.as_bytes()).next().map_or_else(String::new, |(_, value)| value.into_owned())
}
