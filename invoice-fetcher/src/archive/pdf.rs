//! Checks a PDF while it is streamed, without holding it in memory and without parsing it.
//!
//! Accepts what common readers open: the header can be anywhere in the first 1024 bytes, and bytes may follow the end marker.
//! The received bytes are stored unchanged.
//!
//! Deliberately, only the first and last bytes are examined. A parser for untrusted files is a risk that an archive need not
//! take.

use riverlock_schemas::hash::Sha256Hash;
use sha2::{Digest, Sha256};

use crate::problem::Problem;

/// The header of every PDF. Source: ISO 32000-1, 7.5.2.
const BEGIN: &[u8] = b"%PDF-";

/// The number of first bytes that must contain the header. Source: ISO 32000-1, annex H, implementation note 13: readers accept
/// the header anywhere in the first 1024 bytes.
const BEGIN_BYTES: usize = 1024;

/// The end marker of every PDF. Source: ISO 32000-1, 7.5.5.
const END: &[u8] = b"%%EOF";

/// Maximum number of bytes after the end marker. Readers search backwards for it; web servers and mail gateways append line
/// ends, zero padding and comments.
const TRAILING_BYTES_MAX: usize = 64 * 1024;

/// Tokens of a PDF's body or cross-reference section. After the last end marker they mean that an incremental update, or all
/// but the first section of a linearized file, was truncated.
const BODY_TOKENS: [&[u8]; 4] = [b" obj", b"endobj", b"xref", b"trailer"];

/// First bytes of other file types that may contain a complete PDF or quote its header: HTML and XML, JSON, ZIP, gzip.
const OTHER_BEGINS: [&[u8]; 5] = [b"<", b"{", b"[", b"PK\x03\x04", b"\x1f\x8b"];

/// The keyword before the end marker of every PDF. Source: ISO 32000-1, 7.5.5.
const START_OF_XREF: &[u8] = b"startxref";

/// The UTF-8 byte order mark, which can precede a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Checks and hashes a document.
pub(crate) struct Checker {
    bytes_max: u64,
    /// The first bytes, until the header is found.
    begin: Vec<u8>,
    has_begun: bool,
    /// Whether the bytes before the header are binary.
    begins_binary: bool,
    /// The last bytes: at least [`TRAILING_BYTES_MAX`] plus the length of the end marker, once as many were received.
    end: Vec<u8>,
    size_bytes: u64,
    hash: Sha256,
}

/// Hash and size of a complete document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DocumentDigest {
    /// Hash of its bytes.
    pub(crate) sha256: Sha256Hash,
    /// Size in bytes, above 0.
    pub(crate) size_bytes: u64,
}

/// An expected length with its source.
pub(crate) type ExpectedLength = (&'static str, Option<u64>);

impl Checker {
    /// Creates a checker that rejects documents of more than `bytes_max` bytes.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            begin: Vec::new(),
            has_begun: false,
            begins_binary: false,
            end: Vec::new(),
            size_bytes: 0,
            hash: Sha256::new(),
        }
    }

    /// Adds the next bytes, in chunks of any size.
    ///
    /// # Errors
    /// As soon as it is clear that this is not a PDF, or too large.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        self.size_bytes = self.size_bytes.saturating_add(bytes.len() as u64);
        if self.size_bytes > self.bytes_max {
            return Err(Problem::TooLarge { bytes_max: self.bytes_max });
        }
        if !self.has_begun {
            self.find_header(bytes)?;
        }
        self.hash.update(bytes);
        self.keep_end(bytes);
        Ok(())
    }

    fn find_header(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        let room = BEGIN_BYTES - self.begin.len();
        self.begin.extend_from_slice(&bytes[..room.min(bytes.len())]);
        if is_of_another_kind(&self.begin) {
            return Err(Problem::NotPdf);
        }
        if let Some(at) = self.begin.windows(BEGIN.len()).position(|window| window == BEGIN) {
            let before = &self.begin[..at];
            self.begins_binary = !before.strip_prefix(BYTE_ORDER_MARK).unwrap_or(before).is_ascii();
            self.has_begun = true;
            self.begin = Vec::new();
        } else if self.begin.len() == BEGIN_BYTES {
            return Err(Problem::NotPdf);
        }
        Ok(())
    }

    /// Keeps the last bytes. Older ones are dropped only occasionally, so that each byte is moved once on average.
    fn keep_end(&mut self, bytes: &[u8]) {
        const KEPT: usize = TRAILING_BYTES_MAX + END.len();
        self.end.extend_from_slice(&bytes[bytes.len().saturating_sub(KEPT)..]);
        if self.end.len() >= 2 * KEPT {
            let surplus = self.end.len() - KEPT;
            self.end.drain(..surplus);
        }
    }

    /// Checks whether the document is complete.
    ///
    /// # Errors
    /// When it is empty, does not begin or end like a PDF, or has an unexpected length.
    pub(crate) fn finish(self, expected: &[ExpectedLength]) -> Result<DocumentDigest, Problem> {
        if self.size_bytes == 0 {
            return Err(Problem::Empty);
        }
        if !self.has_begun {
            return Err(Problem::NotPdf);
        }
        for &(source_name, length) in expected {
            if let Some(expected) = length.filter(|length| *length != self.size_bytes) {
                return Err(Problem::Length { source_name, expected, received: self.size_bytes });
            }
        }
        if !ends_completely(&self.end) {
            return Err(Problem::NoEndMarker);
        }
        // A compressed file may contain the header and the end marker by chance, but hardly `startxref` too.
        if self.begins_binary && !contains(&self.end, START_OF_XREF) {
            return Err(Problem::NotPdf);
        }
        Ok(DocumentDigest { sha256: Sha256Hash::from_digest(self.hash.finalize().into()), size_bytes: self.size_bytes })
    }
}

/// Whether the last bytes contain an end marker without a part of a PDF's body after it.
fn ends_completely(end: &[u8]) -> bool {
    let Some(at) = end.windows(END.len()).rposition(|window| window == END) else { return false };
    let trailing = &end[at + END.len()..];
    trailing.len() <= TRAILING_BYTES_MAX && !BODY_TOKENS.iter().any(|token| contains(trailing, token))
}

/// Whether a file begins, after a byte order mark and white space, like another file type.
fn is_of_another_kind(begin: &[u8]) -> bool {
    let text = begin.strip_prefix(BYTE_ORDER_MARK).unwrap_or(begin).trim_ascii_start();
    OTHER_BEGINS.iter().any(|other| text.starts_with(other))
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parts: &[&[u8]], expected: &[ExpectedLength]) -> Result<DocumentDigest, Problem> {
        let mut checker = Checker::new(10_000);
        parts.iter().try_for_each(|part| checker.push(part))?;
        checker.finish(expected)
    }

    fn check_large(document: &[u8]) -> Result<DocumentDigest, Problem> {
        let mut checker = Checker::new(1 << 20);
        document.chunks(1_000).try_for_each(|part| checker.push(part))?;
        checker.finish(&[])
    }

    fn document(filling: usize, after_the_end: usize) -> Vec<u8> {
        [b"%PDF-1.4\n".as_slice(), &vec![b'x'; filling], b"\n%%EOF", &vec![b'\n'; after_the_end]].concat()
    }

    #[test]
    fn a_complete_document_is_accepted_in_chunks_of_any_size() {
        let document = document(5_000, 10);
        let whole = DocumentDigest { sha256: Sha256Hash::of(&document), size_bytes: document.len() as u64 };
        let expected = [("a", None), ("b", Some(whole.size_bytes))];
        for size in [1, 2, 3, 7, 1023, 1024, 1025, 10_000] {
            let parts: Vec<&[u8]> = document.chunks(size).collect();
            assert_eq!(check(&parts, &expected), Ok(whole), "{size}");
        }
    }

    #[test]
    fn the_header_can_be_anywhere_in_the_first_1024_bytes() {
        let http = "HTTP/1.1 200 OK\r\nContent-Type: application/pdf\r\n\r\n";
        let last = "x".repeat(BEGIN_BYTES - BEGIN.len());
        for before in ["\u{feff}", "\r\n", "\n\n  ", "\0\0", http, &last] {
            let document = [before.as_bytes(), &document(3_000, 0)].concat();
            for size in [1, 7, 1024, 10_000] {
                let parts: Vec<&[u8]> = document.chunks(size).collect();
                let whole = check(&parts, &[]).unwrap_or_else(|problem| panic!("{before:?}: {problem}"));
                assert_eq!(whole.sha256, Sha256Hash::of(&document), "all received bytes are hashed");
            }
        }
        let binary = |end: &[u8]| check(&[b"\x8b\xff\x01", b"%PDF-1.4\n1 0 obj\n", end], &[]);
        assert!(binary(b"startxref\n9\n%%EOF\n").is_ok());
        assert_eq!(binary(b"\n%%EOF\n"), Err(Problem::NotPdf), "like a compressed file without a content encoding");
        let late = [b"xx".as_slice(), &vec![b'x'; BEGIN_BYTES - BEGIN.len()], &document(10, 0)].concat();
        assert_eq!(check(&[&late], &[]), Err(Problem::NotPdf));
    }

    #[test]
    fn bytes_may_follow_the_end_marker_within_a_limit() {
        let large = |after| check_large(&document(10, after));
        assert!(large(TRAILING_BYTES_MAX).is_ok());
        assert_eq!(large(TRAILING_BYTES_MAX + 1), Err(Problem::NoEndMarker));
        for after in [&b"\0".repeat(5_000)[..], b"\r\n<!-- served by x -->\r\n", b"\n--boundary--\r\n", b"\x1a"] {
            check(&[&document(10, 0), after], &[]).unwrap_or_else(|problem| panic!("{after:?}: {problem}"));
        }
    }

    #[test]
    fn a_truncated_later_section_is_detected() {
        let first = b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\nxref\ntrailer\n<<>>\nstartxref\n30\n%%EOF\n";
        let update = b"2 0 obj\n<<>>\nendobj\nxref\ntrailer\n<<>>\nstartxref\n99\n%%EOF\n";
        check(&[first, update], &[]).unwrap();
        for length in 7..update.len() - 1 {
            assert_eq!(check(&[first, &update[..length]], &[]), Err(Problem::NoEndMarker), "{length}");
        }
    }

    #[test]
    fn a_document_truncated_anywhere_is_incomplete() {
        let document = document(300, 0);
        for length in 0..document.len() {
            assert!(check(&[&document[..length]], &[]).is_err(), "{length}");
        }
    }

    #[test]
    fn other_files_are_rejected_as_early_as_possible() {
        let quoting = "<html>how to write %PDF-1.4 and %%EOF";
        for body in [
            "<!doctype html>",
            "\u{feff}\r\n<html>",
            "{\"type\": \"unauthorized\"}",
            quoting,
            "PK\u{3}\u{4}a.pdf%PDF-1.4",
        ] {
            let mut checker = Checker::new(1_000);
            assert_eq!(checker.push(body.as_bytes()), Err(Problem::NotPdf), "{body}");
        }
        assert_eq!(check(&[b"%PDX-1.4\n%%EOF"], &[]), Err(Problem::NotPdf));
        assert_eq!(check(&[&[b'x'; BEGIN_BYTES]], &[]), Err(Problem::NotPdf));
        assert_eq!(check(&[], &[]), Err(Problem::Empty));
        assert_eq!(check(&[b"%PD"], &[]), Err(Problem::NotPdf));
        assert_eq!(check(&[b"%PDF-", &[b'x'; 9_996]], &[]), Err(Problem::TooLarge { bytes_max: 10_000 }));
    }

    #[test]
    fn an_unexpected_length_is_reported_with_its_source() {
        let error = check(&[&document(10, 0)], &[("Content-Length", Some(7))]).unwrap_err();
        assert_eq!(error, Problem::Length { source_name: "Content-Length", expected: 7, received: 25 });
    }
}
