//! The `DigitalRiver-Signature` header, as the sender writes it.
//!
//! This is deliberately not the code that verifies it: two implementations of one rule check each other.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Name of the header. Source: Digital River, "Webhook signatures".
pub const SIGNATURE_HEADER: &str = "DigitalRiver-Signature";

/// How many signing secrets one endpoint may have at once. Source: Digital River, rotating a signing secret.
pub const SECRETS_PER_ENDPOINT_MAX: usize = 5;

/// How the header spells timestamp and signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignatureStyle {
    /// `1638380000, <base64>[, <base64>…]`: what Digital River's published verifier reads.
    #[default]
    Published,
    /// The same with hexadecimal signatures; nothing published rules them out.
    Hex,
    /// `t=1638380000,v1=<base64>[,v1=<base64>…]`; nothing published rules it out.
    Labelled,
    /// As [`Self::Published`], with the timestamp in milliseconds: its unit is not documented.
    Milliseconds,
}

/// The header's value in the published style, for a timestamp in seconds since the epoch: one signature per secret, in
/// their order. Without a secret it is the timestamp alone, which no receiver should accept.
///
/// Source: Digital River, "Webhook signatures": HMAC-SHA256 over `{timestamp}.{raw body}`.
pub fn header(secrets: &[&str], timestamp_seconds: i64, body: &[u8]) -> String {
    header_in_style(SignatureStyle::Published, secrets, timestamp_seconds, body)
}

/// As [`header`], in any of the spellings that a receiver has to expect.
pub fn header_in_style(style: SignatureStyle, secrets: &[&str], timestamp_seconds: i64, body: &[u8]) -> String {
    let timestamp = match style {
        SignatureStyle::Milliseconds => timestamp_seconds.saturating_mul(1000),
        SignatureStyle::Published | SignatureStyle::Hex | SignatureStyle::Labelled => timestamp_seconds,
    };
    let (before_timestamp, before_signature) = match style {
        SignatureStyle::Labelled => ("t=", ",v1="),
        SignatureStyle::Published | SignatureStyle::Hex | SignatureStyle::Milliseconds => ("", ", "),
    };
    let mut value = format!("{before_timestamp}{timestamp}");
    for secret in secrets {
        let code = mac(secret, timestamp, body);
        value.push_str(before_signature);
        match style {
            SignatureStyle::Hex => value.push_str(&hex::encode(code)),
            SignatureStyle::Published | SignatureStyle::Labelled | SignatureStyle::Milliseconds => {
                STANDARD.encode_string(code, &mut value);
            }
        }
    }
    value
}

fn mac(secret: &str, timestamp: i64, body: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(timestamp.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    // printf '1638380000.{"id":"1"}' | openssl dgst -sha256 -hmac test_secret [-binary | base64]
    const HEX: &str = "e9b66349b12121de600838d1f7c582f8f18b514921e886c5c98b2a9915f9fd29";
    const BASE64: &str = "6bZjSbEhId5gCDjR98WC+PGLUUkh6IbFyYsqmRX5/Sk=";
    const BODY: &[u8] = br#"{"id":"1"}"#;

    #[test]
    fn the_signature_is_what_openssl_computes() {
        assert_eq!(header(&["test_secret"], 1_638_380_000, BODY), format!("1638380000, {BASE64}"));
        assert_eq!(
            header_in_style(SignatureStyle::Hex, &["test_secret"], 1_638_380_000, BODY),
            format!("1638380000, {HEX}")
        );
        assert_eq!(
            header_in_style(SignatureStyle::Labelled, &["test_secret"], 1_638_380_000, BODY),
            format!("t=1638380000,v1={BASE64}")
        );
    }

    #[test]
    fn every_secret_signs_once_in_order() {
        let both = header(&["old", "new"], 7, BODY);
        let old = header(&["old"], 7, BODY);
        let new = header(&["new"], 7, BODY);
        assert_eq!(both, format!("{old}, {}", new.trim_start_matches("7, ")));
    }

    #[test]
    fn milliseconds_are_signed_as_they_are_written() {
        let written = header_in_style(SignatureStyle::Milliseconds, &["s"], 2, BODY);
        assert_eq!(written, header(&["s"], 2000, BODY));
    }
}
