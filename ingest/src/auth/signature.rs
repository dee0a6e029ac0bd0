//! The `DigitalRiver-Signature` header. No I/O; the time is an argument.
//!
//! Source: the header contains a timestamp followed by one signature per active signing secret: HMAC-SHA256, keyed with the
//! secret, over `{timestamp}.{raw body}`. The one published verifier splits it at `", "` and reads base64. The
//! documentation does not rule out other white space, the `t=…,v1=…` form, hexadecimal digits or milliseconds, so all of
//! these are accepted.

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

use crate::config::{EndpointConfig, SecretConfig};

/// The header's name.
pub const HEADER: &str = "digitalriver-signature";

/// Most elements of the header: a timestamp and one signature for each of five secrets, plus a margin.
pub const ELEMENTS_MAX: usize = 10;

/// Longest header in bytes.
pub const HEADER_BYTES_MAX: usize = 1_024;

/// Timestamps from this value on are in milliseconds: in seconds it would be the year 5138.
const MILLISECONDS_FROM: i64 = 100_000_000_000;

/// Bytes of an HMAC-SHA256.
const MAC_BYTES: usize = 32;

/// Longest text of a signature: 64 hexadecimal digits.
const SIGNATURE_CHARS_MAX: usize = 2 * MAC_BYTES;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a signature is rejected. The texts are sent to the client and reveal no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The header is missing or empty.
    #[error("the request has no DigitalRiver-Signature header")]
    Missing,
    /// There are several different headers, so two readers could read different ones.
    #[error("the request has more than one DigitalRiver-Signature header")]
    Repeated,
    /// The header is longer than [`HEADER_BYTES_MAX`] or has more than [`ELEMENTS_MAX`] elements.
    #[error(
        "the DigitalRiver-Signature header is longer than {HEADER_BYTES_MAX} bytes or has more than {ELEMENTS_MAX} elements"
    )]
    TooLong,
    /// The timestamp is missing or is not a number of seconds or milliseconds.
    #[error(
        "the DigitalRiver-Signature header has no timestamp in seconds or milliseconds since 1970 as its first element"
    )]
    Timestamp,
    /// There are two timestamps.
    #[error("the DigitalRiver-Signature header has more than one timestamp")]
    TwoTimestamps,
    /// No element after the timestamp is a signature.
    #[error(
        "the DigitalRiver-Signature header has no signature of 32 bytes in base64 or hexadecimal digits after its timestamp"
    )]
    NoSignature,
    /// No signature matches a secret of this endpoint for this timestamp and body.
    #[error(
        "no signature matches: either the endpoint's signing secret differs from the one configured here, or the body was changed in transit"
    )]
    Mismatch,
    /// The signature is correct, but its secret is not active.
    #[error("the signature was made with a signing secret that has expired or is not active yet")]
    Inactive {
        /// Name of the secret; for the operator, not for the sender.
        secret_id: String,
    },
    /// The signature is correct but too old: a replayed request, or a wrong clock.
    #[error("the signature is correct but {seconds} s old, more than is tolerated: check the clocks")]
    TooOld {
        /// Its age in seconds.
        seconds: u64,
    },
    /// The signature is correct, but its time is in the future: a clock is wrong.
    #[error("the signature is correct but {seconds} s ahead, more than is tolerated: check the clocks")]
    TooNew {
        /// How far ahead it is, in seconds.
        seconds: u64,
    },
}

impl SignatureError {
    /// Short identifier for records and logs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "signature_missing",
            Self::Repeated => "signature_repeated",
            Self::TooLong => "signature_too_long",
            Self::Timestamp => "signature_without_timestamp",
            Self::TwoTimestamps => "signature_with_two_timestamps",
            Self::NoSignature => "signature_unreadable",
            Self::Mismatch => "signature_mismatch",
            Self::Inactive { .. } => "secret_inactive",
            Self::TooOld { .. } => "signature_too_old",
            Self::TooNew { .. } => "signature_too_new",
        }
    }
}

/// Verifies signatures with the secrets of an endpoint.
#[derive(Clone)]
pub struct Verifier {
    keys: Vec<Key>,
    /// In milliseconds; 0 disables the check.
    tolerance_ms: u64,
}

#[derive(Clone)]
struct Key {
    id: String,
    /// Keyed once; each verification clones it.
    mac: Hmac<Sha256>,
    not_before: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
}

impl Key {
    fn new(config: &SecretConfig) -> Self {
        let mac = Hmac::new_from_slice(config.secret.expose().as_bytes()).expect("HMAC takes keys of any length");
        Self { id: config.id.clone(), mac, not_before: config.not_before, expires_at: config.expires_at }
    }

    fn secret(&self) -> Secret<'_> {
        Secret { id: &self.id, not_before: self.not_before, expires_at: self.expires_at }
    }

    fn mac(&self, timestamp: &str, body: &[u8]) -> [u8; MAC_BYTES] {
        let mut mac = self.mac.clone();
        mac.update(timestamp.as_bytes());
        mac.update(b".");
        mac.update(body);
        mac.finalize().into_bytes().into()
    }
}

/// One of a verifier's secrets, without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secret<'a> {
    /// Its name.
    pub id: &'a str,
    /// Active from this time on; without one, from the start.
    pub not_before: Option<DateTime<Utc>>,
    /// Active until this time; without one, indefinitely.
    pub expires_at: Option<DateTime<Utc>>,
}

impl Secret<'_> {
    /// Whether the secret is active at that time.
    #[must_use]
    pub fn is_active(&self, now: DateTime<Utc>) -> bool {
        self.not_before.is_none_or(|from| from <= now) && self.expires_at.is_none_or(|until| now < until)
    }
}

/// A correct signature, regardless of its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignatureHeader<'a> {
    /// The secret.
    pub secret: Match<'a>,
    /// The header's timestamp, in milliseconds since 1970.
    timestamp_ms: i64,
}

/// The secret that a request was signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match<'a> {
    /// Its position in the configuration.
    pub index: usize,
    /// Its name.
    pub id: &'a str,
}

impl Verifier {
    /// Creates a verifier with the secrets and the tolerance of an endpoint.
    #[must_use]
    pub fn new(config: &EndpointConfig) -> Self {
        let tolerance_ms = u64::try_from(config.tolerance.as_millis()).unwrap_or(u64::MAX);
        Self { keys: config.secrets.iter().map(Key::new).collect(), tolerance_ms }
    }

    /// The secrets, in the order of the configuration.
    pub fn secrets(&self) -> impl Iterator<Item = Secret<'_>> {
        self.keys.iter().map(Key::secret)
    }

    /// Whether any secret is active at that time.
    #[must_use]
    pub fn has_active_secret(&self, now: DateTime<Utc>) -> bool {
        self.secrets().any(|secret| secret.is_active(now))
    }

    /// Returns the secret that the request was signed with. `headers` are the values of all [`HEADER`] headers.
    ///
    /// # Errors
    /// As [`Self::signed`], and when the signature's time is outside the tolerance.
    pub fn verify<'h>(
        &self,
        headers: impl IntoIterator<Item = &'h [u8]>,
        body: &[u8],
        now: DateTime<Utc>,
    ) -> Result<Match<'_>, SignatureError> {
        self.verify_again(headers, body, now, now)
    }

    /// Like [`Self::verify`], for a request that was received at `received_at`: uses the secrets that are active `now`, and
    /// compares the timestamp with the time of receipt.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn verify_again<'h>(
        &self,
        headers: impl IntoIterator<Item = &'h [u8]>,
        body: &[u8],
        received_at: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Match<'_>, SignatureError> {
        let signed = self.signed(headers, body, now)?;
        self.check_age(&signed, received_at)?;
        Ok(signed.secret)
    }

    /// Returns which of the secrets that are active `now` the request was signed with, regardless of the signature's age.
    ///
    /// Every signature is compared with that of every secret in constant time, regardless of earlier results, so the
    /// duration reveals nothing about a secret.
    ///
    /// # Errors
    /// When the header is missing, repeated with different values or malformed, no signature is correct, or the secret of
    /// the correct one is not active now.
    pub fn signed<'h>(
        &self,
        headers: impl IntoIterator<Item = &'h [u8]>,
        body: &[u8],
        now: DateTime<Utc>,
    ) -> Result<SignatureHeader<'_>, SignatureError> {
        let mut headers = headers.into_iter();
        let header = headers.next().ok_or(SignatureError::Missing)?;
        // Some proxies repeat the header with the same value; that is unambiguous.
        if headers.any(|other| other != header) {
            return Err(SignatureError::Repeated);
        }
        let header = Header::parse(header)?;

        let mut found: Option<Match<'_>> = None;
        let mut inactive: Option<&Key> = None;
        for (index, key) in self.keys.iter().enumerate() {
            let expected = key.mac(header.timestamp, body);
            let hit = header.signatures.iter().fold(Choice::from(0), |hit, given| hit | given.ct_eq(&expected));
            match (bool::from(hit), key.secret().is_active(now)) {
                (true, true) => found = found.or(Some(Match { index, id: &key.id })),
                (true, false) => inactive = Some(key),
                (false, _) => {}
            }
        }
        match (found, inactive) {
            (Some(secret), _) => Ok(SignatureHeader { secret, timestamp_ms: header.timestamp_ms }),
            (None, Some(key)) => Err(SignatureError::Inactive { secret_id: key.id.clone() }),
            (None, None) => Err(SignatureError::Mismatch),
        }
    }

    /// Checks that a signature was made close to the time at which its request was received.
    ///
    /// # Errors
    /// When the times differ by more than the tolerance.
    pub fn check_age(&self, signed: &SignatureHeader<'_>, received_at: DateTime<Utc>) -> Result<(), SignatureError> {
        let (timestamp_ms, received_ms) = (signed.timestamp_ms, received_at.timestamp_millis());
        let apart_ms = received_ms.abs_diff(timestamp_ms);
        if self.tolerance_ms == 0 || apart_ms <= self.tolerance_ms {
            return Ok(());
        }
        let seconds = apart_ms / 1_000;
        let is_old = timestamp_ms < received_ms;
        Err(if is_old { SignatureError::TooOld { seconds } } else { SignatureError::TooNew { seconds } })
    }
}

/// The parsed header.
struct Header<'a> {
    /// The unchanged text, because it is part of the signed content.
    timestamp: &'a str,
    timestamp_ms: i64,
    signatures: Vec<[u8; MAC_BYTES]>,
}

impl<'a> Header<'a> {
    fn parse(header: &'a [u8]) -> Result<Self, SignatureError> {
        if header.len() > HEADER_BYTES_MAX {
            return Err(SignatureError::TooLong);
        }
        let text = std::str::from_utf8(header).map_err(|_| SignatureError::Timestamp)?;
        if text.trim().is_empty() {
            return Err(SignatureError::Missing);
        }
        let elements: Vec<&str> = text.split(',').map(str::trim).take(ELEMENTS_MAX + 1).collect();
        if elements.len() > ELEMENTS_MAX {
            return Err(SignatureError::TooLong);
        }
        let mut timestamps = Vec::new();
        let mut values = Vec::new();
        for element in elements.into_iter().filter(|element| !element.is_empty()) {
            match named(element) {
                Some((name, value)) if name.eq_ignore_ascii_case("t") => timestamps.push(value),
                Some((name, value)) if name.eq_ignore_ascii_case("v1") => values.push(value),
                // An unknown scheme such as `v0=…` cannot be compared with anything.
                Some(_) => {}
                None => values.push(element),
            }
        }
        if timestamps.is_empty() && !values.is_empty() {
            timestamps.push(values.remove(0));
        }
        let [timestamp] = timestamps[..] else {
            return Err(if timestamps.is_empty() { SignatureError::Timestamp } else { SignatureError::TwoTimestamps });
        };
        let timestamp_ms = milliseconds(timestamp).ok_or(SignatureError::Timestamp)?;
        let signatures: Vec<_> = values.into_iter().filter_map(decode).collect();
        if signatures.is_empty() {
            return Err(SignatureError::NoSignature);
        }
        Ok(Self { timestamp, timestamp_ms, signatures })
    }
}

/// Splits `name=value`. The `=` that pads base64 has nothing after it, and base64 is longer than a name.
fn named(element: &str) -> Option<(&str, &str)> {
    let (name, value) = element.split_once('=')?;
    let (name, value) = (name.trim_end(), value.trim_start());
    let is_name = (1..=4).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_name && !value.is_empty()).then_some((name, value))
}

/// Reads a timestamp in seconds or milliseconds: digits only, no sign.
fn milliseconds(text: &str) -> Option<i64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: i64 = text.parse().ok()?;
    if number >= MILLISECONDS_FROM { Some(number) } else { number.checked_mul(1_000) }
}

/// Reads a signature: 64 hexadecimal digits, or base64 of either alphabet, padded or not.
fn decode(text: &str) -> Option<[u8; MAC_BYTES]> {
    if text.len() > SIGNATURE_CHARS_MAX {
        return None;
    }
    let mut mac = [0; MAC_BYTES];
    if text.len() == SIGNATURE_CHARS_MAX {
        return hex::decode_to_slice(text, &mut mac).is_ok().then_some(mac);
    }
    let standard: Vec<u8> = text.bytes().map(from_url_safe).collect();
    BASE64.decode(standard).ok()?.try_into().ok()
}

fn from_url_safe(byte: u8) -> u8 {
    match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    }
}

#[cfg(test)]
mod tests;
