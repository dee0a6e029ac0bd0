//! Oddities of authenticated requests. None of them is a reason to reject: a rejected event is retried for 72 hours and
//! then lost, while a stored one can be examined.

use axum::http::{HeaderMap, header};
use riverlock_schemas::kafka::record::FOLDED_BYTES_MAX;

use crate::metrics::Oddity;

/// Set of the oddities of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Oddities(u8);

impl Oddities {
    /// Determines the oddities of the headers and the size.
    pub(crate) fn of(headers: &HeaderMap, body_bytes: usize) -> Self {
        let mut oddities = Self::default();
        for (oddity, is_so) in [
            (Oddity::MediaType, !is_json(headers)),
            (Oddity::ContentEncoding, is_encoded(headers)),
            (Oddity::Size, body_bytes > FOLDED_BYTES_MAX),
        ] {
            if is_so {
                oddities.add(oddity);
            }
        }
        oddities
    }

    pub(crate) fn add(&mut self, oddity: Oddity) {
        self.0 |= 1 << oddity as u8;
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Oddity> {
        Oddity::ALL.iter().copied().filter(move |oddity| self.0 & (1 << *oddity as u8) != 0)
    }

    /// Their names, separated by commas.
    pub(crate) fn names(self) -> String {
        self.iter().map(Oddity::as_str).collect::<Vec<_>>().join(",")
    }
}

/// Whether the media type is JSON or absent.
fn is_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return !headers.contains_key(header::CONTENT_TYPE);
    };
    let value = value.to_str().unwrap_or("?");
    let essence = value.split(';').next().unwrap_or_default().trim();
    let is = |name: &str| essence.eq_ignore_ascii_case(name);
    let ends_in_json = || essence.len() > 5 && essence[essence.len() - 5..].eq_ignore_ascii_case("+json");
    is("")
        || is("application/json")
        || is("text/json")
        || (essence.is_ascii() && essence.contains('/') && ends_in_json())
}

/// Whether the headers say that the body is encoded. Digital River signs the bytes that it sends, so they are stored
/// unchanged.
fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_ENCODING).iter().any(|value| {
        let value = value.to_str().unwrap_or("?").trim();
        !value.is_empty() && !value.eq_ignore_ascii_case("identity")
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn oddities_are_detected_and_named() {
        let json = "application/json";
        for (kinds, encodings, bytes, expected) in [
            (&[][..], &[][..], 0, ""),
            (&[json], &[], FOLDED_BYTES_MAX, ""),
            (&["Application/JSON ;charset=UTF-8"], &["Identity"], 1, ""),
            (&["application/vnd.dr+JSON"], &[""], 1, ""),
            (&["text/json"], &[], 1, ""),
            (&["+json"], &[], 1, "media_type"),
            (&["text/plain"], &[], 1, "media_type"),
            (&["application/json, application/json"], &[], 1, "media_type"),
            (&[json, json], &[], 1, "media_type"),
            (&["json"], &[], 1, "media_type"),
            (&["\u{e9}"], &[], 1, "media_type"),
            (&[json], &["gzip"], 1, "content_encoding"),
            (&[json], &["none"], 1, "content_encoding"),
            (&[json], &["identity", "aws-chunked"], 1, "content_encoding"),
            (&["application/octet-stream"], &["utf-8"], FOLDED_BYTES_MAX + 1, "media_type,content_encoding,size"),
        ] {
            let mut headers = HeaderMap::new();
            for kind in kinds {
                headers.append(header::CONTENT_TYPE, HeaderValue::from_bytes(kind.as_bytes()).unwrap());
            }
            for encoding in encodings {
                headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
            }
            let oddities = Oddities::of(&headers, bytes);
            assert_eq!(oddities.names(), expected, "{kinds:?} {encodings:?} {bytes}");
            assert_eq!(oddities.is_empty(), expected.is_empty());
        }
        let mut oddities = Oddities::default();
        oddities.add(Oddity::NotAnEvent);
        assert_eq!(oddities.names(), "not_an_event");
    }
}
