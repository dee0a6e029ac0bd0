//! Checks of response headers: whether the body can be an uncompressed PDF.
//!
//! Tolerant, because the bytes are checked too, and file stores and gateways label PDFs in many ways. A response is rejected
//! only if its headers say that the body is something else, such as an HTML page.

use reqwest::header::{self, GetAll, HeaderMap, HeaderValue};

use crate::problem::Problem;

/// Maximum length of a quote from a response in an error message, characters.
pub(crate) const QUOTE_CHARS_MAX: usize = 100;

/// Content types of a PDF: registered and former names, and the generic ones of file stores and download scripts.
const CONTENT_TYPES: [&str; 18] = [
    "application/pdf",
    "application/x-pdf",
    "application/vnd.pdf",
    "application/acrobat",
    "applications/vnd.pdf",
    "text/pdf",
    "text/x-pdf",
    "application/octet-stream",
    "application/x-octet-stream",
    "binary/octet-stream",
    "application/binary",
    "application/x-binary",
    "application/force-download",
    "application/x-force-download",
    "application/download",
    "application/x-download",
    "application/unknown",
    "unknown/unknown",
];

/// Content codings that change the bytes. Other values (`identity`, an empty value, `aws-chunked` that an object store kept
/// from an upload) are ignored, because the received bytes are checked.
///
/// Source: IANA, "HTTP Content Coding Registry".
const CODINGS: [&str; 11] =
    ["br", "compress", "dcb", "dcz", "deflate", "exi", "gzip", "pack200-gzip", "x-compress", "x-gzip", "zstd"];

/// Values of `type` in the metadata of a PDF, in lower case. An empty value is accepted too.
const FILE_TYPES: [&str; 5] = ["", "pdf", ".pdf", "application/pdf", "application/x-pdf"];

/// Checks content type and content encoding. Missing headers are accepted.
///
/// # Errors
/// When a header says that the body is compressed, or not a PDF.
pub(crate) fn check_head(headers: &HeaderMap) -> Result<(), Problem> {
    let encodings = headers.get_all(header::CONTENT_ENCODING);
    if let Some(coding) = elements(&encodings).find(|coding| CODINGS.contains(&coding.as_str())) {
        return Err(Problem::Encoded(quote(&coding)));
    }
    let content_types = headers.get_all(header::CONTENT_TYPE);
    let other = elements(&content_types).find(|element| !CONTENT_TYPES.contains(&essence(element)));
    other.map_or(Ok(()), |other| Err(Problem::ContentType(quote(essence(&other)))))
}

/// Whether the metadata's `type` is that of a PDF.
pub(crate) fn is_pdf_type(file_type: &str) -> bool {
    FILE_TYPES.contains(&file_type.trim().to_ascii_lowercase().as_str())
}

/// The elements of all headers of one name, which may be lists: in lower case, without white space, quotes and empty elements.
fn elements<'a>(headers: &'a GetAll<'_, HeaderValue>) -> impl Iterator<Item = String> + 'a {
    let texts = headers.iter().map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase());
    let split = |text: String| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    let bare = |element: String| element.trim_matches(|c: char| c.is_ascii_whitespace() || c == '"').to_owned();
    texts.flat_map(split).map(bare).filter(|element| !element.is_empty())
}

/// A content type without its parameters.
fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim_matches(|c: char| c.is_ascii_whitespace() || c == '"')
}

/// A quote from a response, short and without control characters.
pub(crate) fn quote(text: &str) -> String {
    let clean = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(QUOTE_CHARS_MAX).map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(header::HeaderName, &str)]) -> &'static str {
        let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value);
        }
        check_head(&map).map_or_else(|problem| problem.reason(), |()| "")
    }

    #[test]
    fn content_types_of_pdfs_are_accepted_and_others_rejected() {
        let content_type = |value| check(&[(header::CONTENT_TYPE, value)]);
        for value in [
            "application/pdf",
            "Application/PDF; charset=UTF-8",
            "application/pdf;",
            "application/x-pdf",
            "application/force-download",
            "application/octet-stream",
            "binary/octet-stream",
            "application/pdf, application/pdf",
            "application/pdf;charset=utf-8, application/pdf",
            "\"application/pdf\"",
            "",
            " ",
            ",",
        ] {
            assert_eq!(content_type(value), "", "{value:?}");
        }
        for value in
            ["text/html", "application/json", "application/pdf, text/html", "text/plain", "application/zip", "pdf/x"]
        {
            assert_eq!(content_type(value), "content_type", "{value:?}");
        }
        assert_eq!(check(&[]), "");
        let twice = [(header::CONTENT_TYPE, "application/pdf"), (header::CONTENT_TYPE, "text/html")];
        assert_eq!(check(&twice), "content_type");
    }

    #[test]
    fn content_codings_that_change_the_bytes_are_rejected() {
        let encoding = |value| check(&[(header::CONTENT_ENCODING, value)]);
        for value in ["", "identity", "Identity", "aws-chunked", "aws-chunked,identity", "none", "utf-8", " , "] {
            assert_eq!(encoding(value), "", "{value:?}");
        }
        for value in ["gzip", "GZIP", "x-gzip", "br", "zstd, gzip", "identity, deflate", "aws-chunked,gzip"] {
            assert_eq!(encoding(value), "encoded", "{value:?}");
        }
    }

    #[test]
    fn several_names_of_the_file_type_are_accepted() {
        assert!(["pdf", "PDF", "", " ", "application/pdf", "application/x-pdf", ".pdf"].into_iter().all(is_pdf_type));
        assert!(!["zip", "html", "text/html", "pdfx", "application/json"].into_iter().any(is_pdf_type));
    }
}
