//! The expiry time of a certificate, read from its DER encoding: no other field of X.509 is needed here.

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};

/// Tags of DER (X.690) of the elements before and around a certificate's validity.
const SEQUENCE: u8 = 0x30;
const EXPLICIT_VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Expiry time of a certificate (`notAfter`); `None` if it cannot be parsed.
///
/// RFC 5280, section 4.1: `Certificate ::= SEQUENCE { tbsCertificate, … }`, `TBSCertificate ::= SEQUENCE { [0] version,
/// serialNumber, signature, issuer, validity, … }`, `Validity ::= SEQUENCE { notBefore, notAfter }`.
pub(crate) fn not_after(der: &[u8]) -> Option<DateTime<Utc>> {
    let mut certificate = Reader(der).expect(SEQUENCE)?;
    let mut tbs = certificate.expect(SEQUENCE)?;
    if tbs.0.first() == Some(&EXPLICIT_VERSION) {
        tbs.next()?;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        tbs.next()?;
    }
    let mut validity = tbs.expect(SEQUENCE)?;
    validity.next()?;
    let (tag, text) = validity.next()?;
    time(tag, std::str::from_utf8(text).ok()?)
}

/// Reads consecutive DER elements.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next element: its tag and its content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], mut rest) = self.0.split_first_chunk::<2>()?;
        let mut length = usize::from(first);
        if first >= 0x80 {
            // Long form: the first byte gives the number of bytes of the length.
            let (digits, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
            if digits.len() > 4 {
                return None;
            }
            length = digits.iter().fold(0, |length, digit| (length << 8) | usize::from(*digit));
            rest = after;
        }
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next element, which must have this tag.
    fn expect(&mut self, tag: u8) -> Option<Reader<'a>> {
        self.next().and_then(|(found, content)| (found == tag).then_some(Reader(content)))
    }
}

/// RFC 5280, section 4.1.2.5: always in UTC and with seconds; years of two digits are from 1950 to 2049.
fn time(tag: u8, text: &str) -> Option<DateTime<Utc>> {
    let text = match tag {
        UTC_TIME if text.get(..2)?.parse::<u8>().ok()? < 50 => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let text =
        text.strip_suffix('Z').filter(|text| text.len() == 14 && text.bytes().all(|byte| byte.is_ascii_digit()))?;
    let number = |from: usize, to: usize| text[from..to].parse::<u32>().ok();
    let date = NaiveDate::from_ymd_opt(text[..4].parse().ok()?, number(4, 6)?, number(6, 8)?)?;
    let time: NaiveDateTime = date.and_hms_opt(number(8, 10)?, number(10, 12)?, number(12, 14)?)?;
    Some(time.and_utc())
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};

    use super::*;

    #[test]
    fn the_expiry_of_a_certificate_is_parsed() {
        for (pem, expected) in [
            (include_str!("../../tests/service/tls/first.pem"), "2126-10-29T01:16:46+00:00"),
            (include_str!("../../tests/service/tls/second.pem"), "2126-10-29T01:16:46+00:00"),
        ] {
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            assert_eq!(not_after(&der).unwrap().to_rfc3339(), expected);
            for length in 0..der.len() {
                let cut = std::panic::catch_unwind(|| not_after(&der[..length]));
                assert!(cut.is_ok_and(|time| time.is_none()), "{length} bytes");
            }
        }
    }

    #[test]
    fn both_time_encodings_are_parsed() {
        for (tag, text, expected) in [
            (UTC_TIME, "491231235959Z", Some("2049-12-31T23:59:59+00:00")),
            (UTC_TIME, "500101000000Z", Some("1950-01-01T00:00:00+00:00")),
            (GENERALIZED_TIME, "20500102030405Z", Some("2050-01-02T03:04:05+00:00")),
            (GENERALIZED_TIME, "20501301000000Z", None),
            (UTC_TIME, "4912312359Z", None),
            (UTC_TIME, "é", None),
            (SEQUENCE, "491231235959Z", None),
        ] {
            assert_eq!(time(tag, text).map(|time| time.to_rfc3339()).as_deref(), expected, "{text}");
        }
    }
}
