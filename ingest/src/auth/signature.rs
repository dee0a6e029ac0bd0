//! The `DigitalRiver-Signature` header: pure, the time is an argument.
//!
//! Source: the header holds a timestamp and, after it, one signature per active signing secret: HMAC-SHA256, keyed with the
//! secret, over `{timestamp}.{raw body}`. The one published verifier splits it at `", "` and reads base64. Nothing rules out
//! other white space, the `t=…,v1=…` form, hexadecimal digits or milliseconds, so all of these are read.

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

/// Most elements of the header: a timestamp and one signature for each of five secrets, with room.
pub const ELEMENTS_MAX: usize = 10;

/// Longest header in bytes.
pub const HEADER_BYTES_MAX: usize = 1_024;

/// Timestamps from here on are milliseconds: as seconds this would be the year 5138.
const MILLISECONDS_FROM: i64 = 100_000_000_000;

/// Bytes of an HMAC-SHA256.
const MAC_BYTES: usize = 32;

/// Longest text of a signature: 64 hexadecimal digits.
const SIGNATURE_CHARS_MAX: usize = 2 * MAC_BYTES;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a request is not from Digital River, as far as one can see. The texts go to the sender and tell no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no header, or an empty one.
    #[error("the request has no DigitalRiver-Signature header")]
    Missing,
    /// There are several different headers, so that two readers could read two different ones.
    #[error("the request has more than one DigitalRiver-Signature header")]
    Repeated,
    /// The header is longer than [`HEADER_BYTES_MAX`] or has more than [`ELEMENTS_MAX`] elements.
    #[error(
        "the DigitalRiver-Signature header is longer than {HEADER_BYTES_MAX} bytes or has more than {ELEMENTS_MAX} elements"
    )]
    TooLong,
    /// There is no timestamp, or it is not a number of seconds or milliseconds.
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
    /// No signature was made with a secret of this endpoint over this timestamp and this body.
    #[error(
        "no signature matches: either the endpoint's signing secret differs from the one configured here, or the body was changed on its way"
    )]
    Mismatch,
    /// The signature is right, but its secret does not count now.
    #[error("the signature was made with a signing secret that has expired or does not count yet")]
    Inactive {
        /// Which secret; for the operator, not for the sender.
        secret_id: String,
    },
    /// The signature is right, but too long ago: a replay, or a clock that is wrong.
    #[error("the signature is right but {seconds} s old, more than is tolerated: check the clocks")]
    TooOld {
        /// Its age in seconds.
        seconds: u64,
    },
    /// The signature is right, but from the future: a clock is wrong.
    #[error("the signature is right but {seconds} s ahead, more than is tolerated: check the clocks")]
    TooNew {
        /// How far ahead it is, in seconds.
        seconds: u64,
    },
}

impl SignatureError {
    /// A word for records and logs.
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

/// An endpoint's secrets, ready to verify.
#[derive(Clone)]
pub struct Verifier {
    keys: Vec<Key>,
    /// In milliseconds; 0 turns the check off.
    tolerance_ms: u64,
}

#[derive(Clone)]
struct Key {
    id: String,
    /// Keyed once; verifying clones it.
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
    /// It counts from then on.
    pub not_before: Option<DateTime<Utc>>,
    /// It counts until then.
    pub expires_at: Option<DateTime<Utc>>,
}

impl Secret<'_> {
    /// Whether it counts at that time.
    #[must_use]
    pub fn is_active(&self, now: DateTime<Utc>) -> bool {
        self.not_before.is_none_or(|from| from <= now) && self.expires_at.is_none_or(|until| now < until)
    }
}

/// A signature that is right, whenever it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignatureHeader<'a> {
    /// The secret.
    pub secret: Match<'a>,
    /// When it was made, as it says, in milliseconds since 1970.
    timestamp_ms: i64,
}

/// Which secret a request was signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match<'a> {
    /// Its position in the configuration.
    pub index: usize,
    /// Its name.
    pub id: &'a str,
}

impl Verifier {
    /// Takes the secrets and the tolerance of an endpoint.
    #[must_use]
    pub fn new(config: &EndpointConfig) -> Self {
        let tolerance_ms = u64::try_from(config.tolerance.as_millis()).unwrap_or(u64::MAX);
        Self { keys: config.secrets.iter().map(Key::new).collect(), tolerance_ms }
    }

    /// Its secrets, in the order of the configuration.
    pub fn secrets(&self) -> impl Iterator<Item = Secret<'_>> {
        self.keys.iter().map(Key::secret)
    }

    /// Whether any secret counts at that time.
    #[must_use]
    pub fn has_active_secret(&self, now: DateTime<Utc>) -> bool {
        self.secrets().any(|secret| secret.is_active(now))
    }

    /// Says which secret the request was signed with. `headers` are the values of all [`HEADER`] headers.
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

    /// As [`Self::verify`], for a request that came at `received_at`: with the secrets that count `now`, and the tolerance
    /// against the time at which it came.
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

    /// Says which of the secrets that count `now` the request was signed with, whenever that was.
    ///
    /// Every signature is compared with every secret's, in constant time, whatever the others gave: how long it takes tells
    /// nothing about a secret.
    ///
    /// # Errors
    /// When there is no header or several different ones, it cannot be read, no signature is right, or the right one's secret
    /// does not count now.
    pub fn signed<'h>(
        &self,
        headers: impl IntoIterator<Item = &'h [u8]>,
        body: &[u8],
        now: DateTime<Utc>,
    ) -> Result<SignatureHeader<'_>, SignatureError> {
        let mut headers = headers.into_iter();
        let header = headers.next().ok_or(SignatureError::Missing)?;
        // The same value again, as some proxies write it, says nothing else.
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

    /// Checks that a signature was made about when its request came.
    ///
    /// # Errors
    /// When the times are further apart than the tolerance.
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

/// The header, read.
struct Header<'a> {
    /// As it came: it is part of what is signed.
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
                // A scheme that is not known, as `v0=…`: nothing to compare it with.
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
