use std::time::Duration;

use chrono::TimeDelta;
use proptest::prelude::*;
use riverlock_runtime::Secret;

use super::*;

const SECRET: &str = "whsec_0123456789abcdef";
const BODY: &[u8] = br#"{"id":"e1","type":"order.accepted"}"#;
/// Computed with Python's `hmac`, not with this code.
const SECONDS: (&str, &str) = ("1638380000", "YqTrmxhxCv+0zNyzeoMPvo8PbgwtnvWrNDaW9bnSi/g=");
const SECONDS_HEX: &str = "62a4eb9b18710affb4ccdcb37a830fbe8f0f6e0c2d9ef5ab343696f5b9d28bf8";
const MILLIS: (&str, &str) = ("1638380000123", "hRlW2xanasUIldRInrclnkLLzLrp4qVN0cpuV6EkPCg=");

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

fn now() -> DateTime<Utc> {
    at(1_638_380_000)
}

fn secret(id: &str, secret: &str) -> SecretConfig {
    SecretConfig { id: id.to_owned(), secret: Secret::new(secret), not_before: None, expires_at: None }
}

fn verifier(secrets: Vec<SecretConfig>, tolerance: u64) -> Verifier {
    Verifier::new(&EndpointConfig {
        name: "main".to_owned(),
        path: "/".to_owned(),
        mode: crate::config::EndpointMode::Both,
        secrets,
        tolerance: Duration::from_secs(tolerance),
        basic: None,
        oauth: Vec::new(),
        allow: None,
        insecure: false,
    })
}

fn verify(header: &str) -> Result<String, SignatureError> {
    let verifier = verifier(vec![secret("a", SECRET)], 300);
    verifier.verify([header.as_bytes()], BODY, now()).map(|found| found.id.to_owned())
}

fn sign(secret: &str, timestamp: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(&[timestamp.as_bytes(), b".", body].concat());
    BASE64.encode(mac.finalize().into_bytes())
}

#[test]
fn every_form_that_the_documentation_allows_is_accepted() {
    let (t, s) = SECONDS;
    let (ms, ms_s) = MILLIS;
    let unpadded = s.trim_end_matches('=');
    let url_safe = s.replace('+', "-").replace('/', "_");
    let other = sign("another secret of some other endpoint", t, BODY);
    for header in [
        format!("{t}, {s}"),
        format!("{t},{s}"),
        format!("  {t} \t,\t  {s}  "),
        format!("{t}, {unpadded}"),
        format!("{t}, {url_safe}"),
        format!("{t}, {}", url_safe.trim_end_matches('=')),
        format!("{t}, {SECONDS_HEX}"),
        format!("{t}, {}", SECONDS_HEX.to_uppercase()),
        format!("{ms}, {ms_s}"),
        format!("t={t},v1={s}"),
        format!("t={t}, v1={SECONDS_HEX}"),
        format!("v1={s}, t={t}"),
        format!("t = {t}, v1 = {unpadded}"),
        format!("t={t}, {s}"),
        format!("{t}, v1={s}"),
        format!("t={t},v0=abc,v1={s}"),
        format!("{t}, {other}, {s}"),
        format!("{t}, {s}, {other}"),
        format!("{t}, not base64!, {s}, "),
        format!("t={t},v1={other},v1={s}"),
    ] {
        assert_eq!(verify(&header).as_deref(), Ok("a"), "{header}");
    }
}

#[test]
fn malformed_and_forged_headers_are_rejected() {
    use SignatureError as E;
    let (t, s) = SECONDS;
    let many = [s; ELEMENTS_MAX].join(",");
    for (header, expected) in [
        (String::new(), E::Missing),
        ("  ".to_owned(), E::Missing),
        (",".to_owned(), E::Timestamp),
        (t.to_owned(), E::NoSignature),
        (format!("{t},"), E::NoSignature),
        (format!("{t},,"), E::NoSignature),
        (format!("{t}, ="), E::NoSignature),
        (format!("t={t},v1="), E::NoSignature),
        (format!("t={t}"), E::NoSignature),
        (s.to_owned(), E::Timestamp),
        (format!("v1,{s}"), E::Timestamp),
        (format!("{s}, {t}"), E::Timestamp),
        (format!("v0={t},v2={s}"), E::Timestamp),
        (format!("{t}, {}", &s[..40]), E::NoSignature),
        (format!("{t}, {}", &s[..s.len() - 2]), E::NoSignature),
        (format!("{t}, {s}AA"), E::NoSignature),
        (format!("{t}, {}", &SECONDS_HEX[..62]), E::NoSignature),
        (format!("{t}, {SECONDS_HEX}00"), E::NoSignature),
        (format!("{t}, {}", s.replace("i/g=", "i/h=")), E::NoSignature),
        (format!("{t}, {}", BASE64.encode([0; 32])), E::Mismatch),
        (format!("{t}, {}", BASE64.encode(Sha256::default().clone().finalize_empty())), E::Mismatch),
        (format!("t={t},t={t},v1={s}"), E::TwoTimestamps),
        (format!("t={t},t=1,v1={s}"), E::TwoTimestamps),
        (format!("+{t}, {s}"), E::Timestamp),
        (format!("-{t}, {s}"), E::Timestamp),
        (format!("0x{t}, {s}"), E::Timestamp),
        (format!("{t}.0, {s}"), E::Timestamp),
        (format!("1_638_380_000, {s}"), E::Timestamp),
        (format!("١٦٣٨٣٨٠٠٠٠, {s}"), E::Timestamp),
        ("9223372036854775808, AAAA".to_owned(), E::Timestamp),
        (format!("{}, {s}", "9".repeat(100)), E::Timestamp),
        // Another text for the same time: the text is signed, not the number.
        (format!("0{t}, {s}"), E::Mismatch),
        (format!("{t}000, {s}"), E::Mismatch),
        (format!("1638380001, {s}"), E::Mismatch),
        (format!("{t}, {many}"), E::TooLong),
        (format!("{t}, {s}{}", " ".repeat(HEADER_BYTES_MAX)), E::TooLong),
        (format!("{t}, {}", sign("another secret of some other endpoint", t, BODY)), E::Mismatch),
    ] {
        assert_eq!(verify(&header), Err(expected), "{header}");
    }
}

/// SHA-256 of the empty input, which a broken verifier might compare with.
trait FinalizeEmpty {
    fn finalize_empty(self) -> [u8; 32];
}

impl FinalizeEmpty for Sha256 {
    fn finalize_empty(self) -> [u8; 32] {
        use sha2::Digest;
        self.finalize().into()
    }
}

#[test]
fn the_header_must_be_present_unambiguous_and_text() {
    let verifier = verifier(vec![secret("a", SECRET)], 300);
    let header = format!("{}, {}", SECONDS.0, SECONDS.1);
    assert_eq!(verifier.verify([], BODY, now()), Err(SignatureError::Missing));
    let other = format!("{header}, AAAA");
    assert_eq!(verifier.verify([header.as_bytes(), other.as_bytes()], BODY, now()), Err(SignatureError::Repeated));
    assert_eq!(verifier.verify([other.as_bytes(), header.as_bytes()], BODY, now()), Err(SignatureError::Repeated));
    let again = verifier.verify([header.as_bytes(); 3], BODY, now());
    assert!(again.is_ok(), "a repeated identical value is unambiguous: {again:?}");
    assert_eq!(verifier.verify([&b"\xff\xfe"[..]], BODY, now()), Err(SignatureError::Timestamp));
}

#[test]
fn any_changed_bit_is_detected() {
    let verifier = verifier(vec![secret("a", SECRET)], 300);
    let mac: [u8; 32] = BASE64.decode(SECONDS.1).unwrap().try_into().unwrap();
    for bit in 0..256 {
        let mut changed = mac;
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(verify(&format!("{}, {}", SECONDS.0, hex::encode(changed))), Err(SignatureError::Mismatch));
    }
    let header = format!("{}, {}", SECONDS.0, SECONDS.1);
    for bit in 0..BODY.len() * 8 {
        let mut body = BODY.to_vec();
        body[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(verifier.verify([header.as_bytes()], &body, now()), Err(SignatureError::Mismatch));
    }
    for body in [&b""[..], &BODY[1..], &[BODY, b"\n"].concat()] {
        assert_eq!(verifier.verify([header.as_bytes()], body, now()), Err(SignatureError::Mismatch));
    }
}

#[test]
fn the_tolerance_is_exact_to_the_millisecond_in_both_directions_and_can_be_disabled() {
    let (t, s) = SECONDS;
    let header = format!("{t}, {s}");
    let check = |tolerance, now| {
        verifier(vec![secret("a", SECRET)], tolerance).verify([header.as_bytes()], BODY, now).map(|found| found.index)
    };
    let ms = TimeDelta::milliseconds;
    assert_eq!(check(300, now() + ms(300_000)), Ok(0));
    assert_eq!(check(300, now() - ms(300_000)), Ok(0));
    assert_eq!(check(300, now() + ms(300_001)), Err(SignatureError::TooOld { seconds: 300 }));
    assert_eq!(check(300, now() - ms(300_001)), Err(SignatureError::TooNew { seconds: 300 }));
    assert_eq!(check(0, now() + TimeDelta::days(10_000)), Ok(0));
}

#[test]
fn extreme_timestamps_are_out_of_tolerance_without_overflow() {
    let verifier = verifier(vec![secret("a", SECRET)], 300);
    for timestamp in ["0", "1", "99999999999", "100000000000", "9223372036854775807", "0000000000000000001"] {
        for now in [now(), DateTime::<Utc>::MAX_UTC, DateTime::<Utc>::MIN_UTC] {
            let header = format!("{timestamp}, {}", sign(SECRET, timestamp, BODY));
            let error = verifier.verify([header.as_bytes()], BODY, now).unwrap_err();
            assert!(
                matches!(error, SignatureError::TooOld { .. } | SignatureError::TooNew { .. }),
                "{timestamp}: {error}"
            );
        }
    }
}

#[test]
fn rotated_secrets_are_accepted_only_while_they_are_active() {
    let mut old = secret("old", "the old secret of the endpoint");
    let mut new = secret("new", SECRET);
    old.expires_at = Some(now() + TimeDelta::seconds(10));
    new.not_before = Some(now() - TimeDelta::seconds(10));
    let verifier = verifier(vec![old, new], 300);
    let t = SECONDS.0;
    let by_old = format!("{t}, {}", sign("the old secret of the endpoint", t, BODY));
    let by_new = format!("{t}, {}", SECONDS.1);
    let by_both = format!("{by_new}, {}", sign("the old secret of the endpoint", t, BODY));
    let signer = |header: &str, seconds: i64| {
        verifier.verify([header.as_bytes()], BODY, now() + TimeDelta::seconds(seconds)).map(|found| found.id.to_owned())
    };
    let inactive = |id: &str| Err(SignatureError::Inactive { secret_id: id.to_owned() });
    assert_eq!(signer(&by_old, 0), Ok("old".to_owned()));
    assert_eq!(signer(&by_new, 0), Ok("new".to_owned()));
    assert_eq!(signer(&by_both, 0), Ok("old".to_owned()));
    assert_eq!(signer(&by_old, 9), Ok("old".to_owned()));
    assert_eq!(signer(&by_old, 10), inactive("old"));
    assert_eq!(signer(&by_both, 10), Ok("new".to_owned()));
    assert_eq!(signer(&by_new, -10), Ok("new".to_owned()));
    assert_eq!(signer(&by_new, -11), inactive("new"));
    assert!(verifier.has_active_secret(now()) && verifier.has_active_secret(now() + TimeDelta::days(1)));
    let text = inactive("old").unwrap_err().to_string();
    assert!(!text.contains("old"), "the text reveals the secret's name: {text}");
}

#[test]
fn without_secrets_every_signature_is_rejected() {
    let header = format!("{}, {}", SECONDS.0, SECONDS.1);
    assert_eq!(verifier(vec![], 0).verify([header.as_bytes()], BODY, now()), Err(SignatureError::Mismatch));
}

proptest! {
    #[test]
    fn a_signed_body_is_accepted_and_its_secret_is_returned(
        body: Vec<u8>,
        secrets in proptest::collection::hash_set("[!-~]{16,40}", 1..=5),
        pick: prop::sample::Index,
        seconds in 0i64..99_999_999_999,
    ) {
        let secrets: Vec<String> = secrets.into_iter().collect();
        let configs = secrets.iter().enumerate().map(|(i, text)| secret(&i.to_string(), text)).collect();
        let timestamp = seconds.to_string();
        let index = pick.index(secrets.len());
        let header = format!("{timestamp}, {}", sign(&secrets[index], &timestamp, &body));
        let verifier = verifier(configs, 300);
        let found = verifier.verify([header.as_bytes()], &body, at(seconds)).unwrap();
        prop_assert_eq!(found.index, index);
    }

    #[test]
    fn arbitrary_headers_neither_panic_nor_verify(header: Vec<u8>, body: Vec<u8>) {
        let verifier = verifier(vec![secret("a", SECRET)], 0);
        prop_assert!(verifier.verify([&header[..]], &body, now()).is_err());
    }

    #[test]
    fn header_like_texts_neither_panic_nor_verify(header in "(t=)?[0-9+-]{0,20}[ ,]{0,3}(v1=)?[A-Za-z0-9+/=_-]{0,70}") {
        prop_assert!(verify(&header).is_err());
    }
}
