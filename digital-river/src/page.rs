//! Lists: Digital River answers with `{"hasMore": …, "data": […]}`, or for `/webhooks` with a bare array.

use serde::Deserialize;
use serde_json::value::RawValue;

/// One page of a list. The elements are kept as raw bytes, so that numbers keep every digit.
#[derive(Debug)]
pub struct Page {
    /// Whether more elements follow.
    pub has_more: bool,
    /// The elements.
    pub data: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Object {
    #[serde(default, rename = "hasMore")]
    has_more: bool,
    data: Vec<Box<RawValue>>,
}

impl Page {
    /// Parses a page from a body of either form.
    ///
    /// # Errors
    /// When the body has neither form.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
        if first == Some(&b'[') {
            let data = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            return Ok(Self { has_more: false, data });
        }
        let Object { has_more, data } = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        Ok(Self { has_more, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_an_object_with_data_or_a_bare_array() {
        let page = Page::read(br#" {"data":[{"a":1.10}],"hasMore":true,"other":1}"#).unwrap();
        assert_eq!((page.has_more, page.data[0].get()), (true, r#"{"a":1.10}"#));
        let page = Page::read(b" [1, 2]").unwrap();
        assert_eq!((page.has_more, page.data.len()), (false, 2));
        assert_eq!(Page::read(br#"{"data":[]}"#).unwrap().data.len(), 0);
        for wrong in [&b""[..], b"<html>", b"{}", b"null", br#"{"data":7}"#] {
            assert!(Page::read(wrong).is_err(), "{wrong:?}");
        }
    }
}
