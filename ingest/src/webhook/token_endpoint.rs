//! Token endpoint, from which Digital River fetches the token that it then sends with every event.
//!
//! Source: with `transportType: OAUTH`, Digital River sends `grant_type`, `client_id`, `client_secret`, `username` and
//! `password` as a form, in Salesforce's format, and expects Salesforce's answer. Errors are those of RFC 6749, section
//! 5.2. Answers and timing do not reveal whether a client exists.
//!
//! Credentials are read from the form and from the `Authorization` header, never from the URL: proxies log URLs, and RFC
//! 6749, section 2.3.1, forbids it.

use std::time::Instant;

use axum::{
    Json,
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts, uri::Authority},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Serialize;

use crate::{
    auth::{
        authorization, credentials,
        token::{Client, Grant, GrantError},
    },
    endpoints::Endpoints,
    http::{server::Peer, slots::Rank},
    metrics::{Outcome, PROCESS, TokenOutcome},
    refusal::Rejection,
    webhook::{body, floods::Kind, reading::Origin, state::Ingest},
};

/// Longest form, in bytes.
const FORM_BYTES_MAX: usize = 16 * 1024;

/// Media types of a form, and the default types of senders that do not set one.
const FORM_TYPES: [&str; 4] = ["", "application/x-www-form-urlencoded", "application/octet-stream", "text/plain"];

/// `Retry-After` for a client with too many failures, in seconds.
const LIMITED_RETRY_AFTER_SECONDS: u16 = 60;

/// Why no token is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenError {
    /// The body is not a form, or a parameter is repeated or missing.
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
            Self::Client => ("invalid_client", "client_id or client_secret is wrong"),
            Self::User => ("invalid_grant", "username or password is wrong"),
            Self::UserMissing => ("unauthorized_client", "this client has a user: grant_type must be password"),
            Self::GrantType => ("unsupported_grant_type", "grant_type must be password or client_credentials"),
            Self::Limited => ("temporarily_unavailable", "too many failures: retry later"),
            Self::Busy => ("temporarily_unavailable", "retry"),
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

/// The answer with a token, in Salesforce's format.
#[derive(Serialize)]
struct TokenResponse {
    access_token: String,
    instance_url: String,
    id: String,
    token_type: &'static str,
    /// In milliseconds since 1970, as a string, as in Salesforce's answers.
    issued_at: String,
    signature: String,
    /// In seconds.
    expires_in: i64,
}

/// Answers a request to one of the token paths.
pub(crate) async fn handle(ingest: &Ingest, endpoints: &Endpoints, parts: Parts, mut body: Body) -> Response {
    if parts.method != Method::POST {
        return Rejection::MethodNotAllowed.into_response();
    }
    let peer = parts.extensions.get::<Peer>();
    let origin = Origin::of(peer, &parts.headers, endpoints);
    let (outcome, mut response) = match answer(ingest, endpoints, &origin, &parts, &mut body).await {
        Ok(granted) => {
            // The client is authenticated: its requests have priority when slots are scarce.
            ingest.note_authenticated(&origin, peer);
            (TokenOutcome::Issued, Json(granted).into_response())
        }
        Err(failure) => {
            failure.log(ingest, &origin);
            (failure.outcome(), failure.into_response())
        }
    };
    PROCESS.token_requests(outcome);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

/// Why no token is issued, or why the request could not be read.
enum Failure {
    Token(TokenError),
    Other(Rejection),
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

impl Failure {
    fn outcome(&self) -> TokenOutcome {
        match self {
            Self::Token(error) => error.outcome(),
            Self::Other(Rejection::AddressNotAllowed) => TokenOutcome::AddressNotAllowed,
            Self::Other(Rejection::Busy | Rejection::Evicted) => TokenOutcome::Busy,
            Self::Other(_) => TokenOutcome::InvalidRequest,
        }
    }

    fn log(&self, ingest: &Ingest, origin: &Origin) {
        let address = origin.client.address;
        let (outcome, reason) = match self {
            Self::Token(error) => (Outcome::Unauthenticated, error.texts().1.to_owned()),
            Self::Other(refusal) => (refusal.outcome(), refusal.to_string()),
        };
        let reason = reason.as_str();
        ingest.floods.warn(Kind::Token, || {
            tracing::warn!(%address, outcome = outcome.as_str(), reason, "no token was issued to {address}: {reason}");
        });
    }

    fn into_response(self) -> Response {
        match self {
            Self::Token(error) => error.into_response(),
            Self::Other(refusal) => refusal.into_response(),
        }
    }
}

async fn answer(
    ingest: &Ingest,
    endpoints: &Endpoints,
    origin: &Origin,
    parts: &Parts,
    body: &mut Body,
) -> Result<TokenResponse, Failure> {
    if !endpoints.allows_token(&origin.client) {
        return Err(Failure::Other(Rejection::AddressNotAllowed));
    }
    if parts.uri.query().is_some_and(|query| query.contains("client_secret=") || query.contains("grant_type=")) {
        return Err(TokenError::Request("parameters must be in the body, not in the URL, which may be logged").into());
    }
    let form = read_form(ingest, origin, parts, body).await?;
    let request = Request::read(&form, &parts.headers)?;
    // Nothing below waits, so a slow client does not delay others.
    let (address, now) = (origin.client.address, Instant::now());
    let is_known = ingest.known.rank(address, now) >= Rank::KnownAddress;
    let attempt = ingest.token_guesses.attempt(request.ids.preferred(), address, is_known, now);
    let attempt = attempt.ok_or(TokenError::Limited)?;
    let client = Client::find(endpoints.clients(), &request.ids.all(), &request.secrets.all(), request.grant());
    let client = client.map_err(TokenError::from)?;
    ingest.token_guesses.succeeded(&attempt);
    grant(ingest, client, &base_url(endpoints.instance_url(), parts)).ok_or_else(|| TokenError::Busy.into())
}

fn grant(ingest: &Ingest, client: &Client, base_url: &str) -> Option<TokenResponse> {
    let now = ingest.context.clock.now();
    let id = format!("{base_url}/id/{}/{}", client.endpoint, percent_encoded(&client.id));
    let issued_at = now.timestamp_millis().to_string();
    tracing::info!(endpoint = client.endpoint, "a token for endpoint {} was issued", client.endpoint);
    Some(TokenResponse {
        access_token: client.issue(now)?,
        instance_url: base_url.to_owned(),
        signature: STANDARD.encode(client.sign_answer(&id, &issued_at)),
        id,
        token_type: "Bearer",
        issued_at,
        expires_in: client.ttl_seconds(),
    })
}

/// The configured `instance_url`, else the host as the sender addressed it.
fn base_url(configured: Option<&str>, parts: &Parts) -> String {
    if let Some(url) = configured {
        return url.trim_end_matches('/').to_owned();
    }
    // HTTP/2 has the host in the request target.
    let authority = parts.uri.authority().map(Authority::as_str);
    let host = authority.or_else(|| parts.headers.get(header::HOST)?.to_str().ok()).unwrap_or("localhost");
    format!("https://{host}")
}

fn percent_encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

async fn read_form(ingest: &Ingest, origin: &Origin, parts: &Parts, body: &mut Body) -> Result<Bytes, Failure> {
    let kind = parts.headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("?"));
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !FORM_TYPES.contains(&essence.as_str()) {
        return Err(TokenError::Request("Content-Type must be application/x-www-form-urlencoded").into());
    }
    let arriving = ingest.reading.begin();
    let time = (Instant::now(), ingest.limits.body_read_timeout);
    let form = body::read(body, FORM_BYTES_MAX, time, &arriving, || ingest.network_and_rank(origin)).await;
    let mut form = form.map_err(Failure::Other)?;
    // Some senders end a form with a line break, which is not part of a parameter.
    form.truncate(form.trim_ascii_end().len());
    Ok(form)
}

/// Possible readings of a credential: in the `Authorization` header some clients encode it, as RFC 6749 requires, and some
/// do not.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Readings {
    raw: String,
    decoded: Option<String>,
}

impl Readings {
    /// A credential from the form, which has one reading.
    fn plain(text: String) -> Self {
        Self { raw: text, decoded: None }
    }

    /// A credential from the header.
    fn of(text: String) -> Self {
        let decoded = Some(form_decoded(&text)).filter(|decoded| *decoded != text);
        Self { raw: text, decoded }
    }

    fn all(&self) -> Vec<&str> {
        [Some(self.raw.as_str()), self.decoded.as_deref()].into_iter().flatten().collect()
    }

    /// The decoded reading, else the raw one.
    fn preferred(&self) -> &str {
        self.decoded.as_deref().unwrap_or(&self.raw)
    }

    /// Restricts the readings to the one that the form contains, if it contains any.
    fn matching(self, form: Option<String>) -> Result<Self, TokenError> {
        match form {
            None => Ok(self),
            Some(form) if self.all().contains(&form.as_str()) => Ok(Self::plain(form)),
            Some(_) => Err(TokenError::Request("the client is given twice with different values")),
        }
    }
}

/// A parsed token request.
struct Request {
    grant_type: GrantType,
    ids: Readings,
    secrets: Readings,
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
            // Other parameters, such as `scope`, are ignored.
            let Some(at) = names.iter().position(|name| *name == key) else { continue };
            let value = value.into_owned();
            let other = fields[at].replace(value.clone()).filter(|earlier| *earlier != value);
            if other.is_some() {
                return Err(TokenError::Request("a parameter is given twice with different values"));
            }
        }
        let [grant_type, client_id, client_secret, username, password] = fields;
        let grant_type = match grant_type.as_deref() {
            Some("password") => GrantType::Password,
            Some("client_credentials") => GrantType::ClientCredentials,
            Some(_) => return Err(TokenError::GrantType),
            None => return Err(TokenError::Request("grant_type is missing")),
        };
        let (ids, secrets) = client(client_id, client_secret, headers)?;
        let (username, password) = (username.unwrap_or_default(), password.unwrap_or_default());
        Ok(Self { grant_type, ids, secrets, username, password })
    }

    fn grant(&self) -> Grant<'_> {
        match self.grant_type {
            GrantType::Password => Grant::Password { username: &self.username, password: &self.password },
            GrantType::ClientCredentials => Grant::ClientCredentials,
        }
    }
}

/// The client's credentials: from the header, else from the form. A form may repeat those of the header.
fn client(
    form_id: Option<String>,
    form_secret: Option<String>,
    headers: &HeaderMap,
) -> Result<(Readings, Readings), TokenError> {
    if !headers.contains_key(header::AUTHORIZATION) {
        return match (form_id, form_secret) {
            (Some(id), Some(secret)) => Ok((Readings::plain(id), Readings::plain(secret))),
            _ => Err(TokenError::Client),
        };
    }
    let (id, secret) = authorization(headers).and_then(credentials::basic).ok_or(TokenError::Client)?;
    Ok((Readings::of(id).matching(form_id)?, Readings::of(secret).matching(form_secret)?))
}

/// Decodes a form-encoded text, the encoding that RFC 6749 requires in the header.
fn form_decoded(text: &str) -> String {
    // An encoded text contains no `&`.
    if text.contains('&') {
        return text.to_owned();
    }
    let pair = format!("v={text}");
    url::form_urlencoded::parse(pair.as_bytes()).next().map_or_else(String::new, |(_, value)| value.into_owned())
}
