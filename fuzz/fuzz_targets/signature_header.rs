//! The verifier of signatures against independently computed ones.
//!
//! The first line of the input is the header, the rest is the body. So that the fuzzer can produce valid signatures, `@` in
//! the header is replaced by the right signature in base64, and `#` by the same in hexadecimal digits.

#![no_main]

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use libfuzzer_sys::fuzz_target;
use riverlock_ingest::auth::signature::{HEADER_BYTES_MAX, SignatureError, Verifier};
use sha2::Sha256;

const SECRET: &str = "whsec_0123456789abcdef";
const OTHER_SECRET: &str = "whsec_fedcba9876543210";
/// The signed time, which is also the present time.
const TIMESTAMP: &str = "1638380000";

static NOW: LazyLock<DateTime<Utc>> = LazyLock::new(|| DateTime::from_timestamp(1_638_380_000, 0).unwrap());

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let endpoint = serde_json::json!({
        "name": "fuzz",
        "path": "/",
        "secrets": [{ "id": "other", "secret": OTHER_SECRET }, { "id": "right", "secret": SECRET }],
    });
    Verifier::new(&serde_json::from_value(endpoint).unwrap())
});

fn mac(body: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(TIMESTAMP.as_bytes());
    mac.update(b".");
    mac.update(body);
    mac.finalize().into_bytes().into()
}

fn accepted(header: &[u8], body: &[u8]) -> bool {
    VERIFIER.verify([header], body, *NOW).is_ok()
}

/// Whether the header contains this signature in any form.
fn holds(header: &[u8], base64: &str, hex: &str) -> bool {
    let text = String::from_utf8_lossy(header);
    let standard = text.replace('-', "+").replace('_', "/");
    text.contains(TIMESTAMP) && (standard.contains(base64.trim_end_matches('=')) || text.to_lowercase().contains(hex))
}

fuzz_target!(|input: &[u8]| {
    let line = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (template, body) = (&input[..line], input.get(line + 1..).unwrap_or_default());
    let mac = mac(body);
    let (base64, hex) = (STANDARD.encode(mac), hex::encode(mac));
    let mut header = Vec::new();
    for byte in template {
        match byte {
            b'@' => header.extend_from_slice(base64.as_bytes()),
            b'#' => header.extend_from_slice(hex.as_bytes()),
            other => header.push(*other),
        }
    }

    let result = VERIFIER.verify([header.as_slice()], body, *NOW);
    if let Ok(found) = result {
        assert_eq!((found.index, found.id), (1, "right"));
        assert!(holds(&header, &base64, &hex), "accepted without the right signature: {header:?}");
        assert!(!accepted(&header, &[body, b"x"].concat()), "accepted for another body: {header:?}");
        // A repeated value changes nothing; a different one may.
        assert!(VERIFIER.verify([header.as_slice(), header.as_slice()], body, *NOW).is_ok());
        assert_eq!(VERIFIER.verify([header.as_slice(), b"x"], body, *NOW), Err(SignatureError::Repeated));
    }
    assert!(header.len() <= HEADER_BYTES_MAX || result == Err(SignatureError::TooLong));

    // A header of Digital River is accepted with any other signature next to the right one.
    assert!(accepted(format!("{TIMESTAMP}, {base64}").as_bytes(), body));
    let other: String =
        template.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(|byte| *byte as char).collect();
    if !other.is_empty() && other.len() < 200 {
        assert!(accepted(format!("{TIMESTAMP}, {other}, {base64}").as_bytes(), body), "{other}");
        assert!(accepted(format!("t={TIMESTAMP},v1={other},v1={hex}").as_bytes(), body), "{other}");
    }
});
