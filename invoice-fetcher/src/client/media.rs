//! What the head of an answer says of its body: whether the body can be a PDF that came as it is.
//!
//! Tolerant, because the bytes themselves are checked as well: file stores and gateways label PDFs in many ways. What is
//! refused is what says that the body is something else, such as a page of HTML.

use reqwest::header::{self, GetAll, HeaderMap, HeaderValue};

use crate::problem::Problem;

/// Longest piece of an answer that is repeated in an error, characters.
pub(crate) const QUOTE_CHARS_MAX: usize = 100;

/// Content types of a PDF: registered and former names, and the general ones of file stores and download scripts.
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

/// Content codings that change the bytes. Anything else (`identity`, an empty value, what an object store left over from an
/// upload, such as `aws-chunked`) names none: the bytes are checked as they came.
///
/// Source: IANA, "HTTP Content Coding Registry".
const CODINGS: [&str; 11] =
    ["br", "compress", "dcb", "dcz", "deflate", "exi", "gzip", "pack200-gzip", "x-compress", "x-gzip", "zstd"];

/// What the metadata may call a PDF, in lower case; nothing at all is no contradiction either.
const FILE_TYPES: [&str; 5] = ["", "pdf", ".pdf", "application/pdf", "application/x-pdf"];

/// Judges content type and content encoding. A header that is missing is no contradiction.
///
/// # Errors
/// When a header says that the body is compressed, or is something else than a PDF.
pub(crate) fn judge_head(headers: &HeaderMap) -> Result<(), Problem> {
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

/// The elements of all headers of one name, which may be lists: in lower case, without blanks and quotes, none empty.
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

/// A piece of an answer, short and without control characters.
pub(crate) fn quote(text: &str) -> String {
    let clean = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(QUOTE_CHARS_MAX).map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(headers: &[(header::HeaderName, &str)]) -> &'static str {
        let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value);
        }
        judge_head(&map).map_or_else(|problem| problem.reason(), |()| "")
    }

    #[test]
    fn a_pdf_may_be_labelled_in_many_ways_and_another_kind_of_file_is_refused() {
        let content_type = |value| judge(&[(header::CONTENT_TYPE, value)]);
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
        assert_eq!(judge(&[]), "");
        let twice = [(header::CONTENT_TYPE, "application/pdf"), (header::CONTENT_TYPE, "text/html")];
        assert_eq!(judge(&twice), "content_type");
    }

    #[test]
    fn a_coding_that_changes_the_bytes_is_refused_and_what_names_none_is_not() {
        let encoding = |value| judge(&[(header::CONTENT_ENCODING, value)]);
        for value in ["", "identity", "Identity", "aws-chunked", "aws-chunked,identity", "none", "utf-8", " , "] {
            assert_eq!(encoding(value), "", "{value:?}");
        }
        for value in ["gzip", "GZIP", "x-gzip", "br", "zstd, gzip", "identity, deflate", "aws-chunked,gzip"] {
            assert_eq!(encoding(value), "encoded", "{value:?}");
        }
    }

    #[test]
    fn the_metadata_may_name_the_type_in_several_ways() {
        assert!(["pdf", "PDF", "", " ", "application/pdf", "application/x-pdf", ".pdf"].into_iter().all(is_pdf_type));
        assert!(!["zip", "html", "text/html", "pdfx", "application/json"].into_iter().any(is_pdf_type));
    }
}
