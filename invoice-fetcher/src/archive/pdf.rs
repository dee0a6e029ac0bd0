//! Checks a document while it streams by: it is never whole in memory, and never opened.
//!
//! Accepted is what common readers open: the header may stand anywhere in the first 1024 bytes, and bytes may follow the end
//! marker. What is stored are the bytes as they were served.
//!
//! Deliberately absent: any understanding of PDF beyond its first and last bytes. A parser of hostile files is a risk that
//! an archive need not take.

use riverlock_schemas::hash::Sha256Hash;
use sha2::{Digest, Sha256};

use crate::problem::Problem;

/// The header of every PDF. Source: ISO 32000-1, 7.5.2.
const BEGIN: &[u8] = b"%PDF-";

/// Within how many of the first bytes the header must lie. Source: ISO 32000-1, annex H, implementation note 13: readers
/// accept the header anywhere in the first 1024 bytes.
const BEGIN_BYTES: usize = 1024;

/// The end marker of every PDF. Source: ISO 32000-1, 7.5.5.
const END: &[u8] = b"%%EOF";

/// How many bytes may follow the end marker. Readers search backwards for it; web servers and mail gateways append line
/// ends, zero padding and comments.
const TRAILING_BYTES_MAX: usize = 64 * 1024;

/// What is part of a PDF's body or of its cross-reference section. After the last end marker it means that an incremental
/// update, or all but the first section of a linearized file, was cut off.
const BODY_TOKENS: [&[u8]; 4] = [b" obj", b"endobj", b"xref", b"trailer"];

/// How other kinds of files begin that may contain a whole PDF or quote its header: HTML and XML, JSON, ZIP, gzip.
const OTHER_BEGINS: [&[u8]; 5] = [b"<", b"{", b"[", b"PK\x03\x04", b"\x1f\x8b"];

/// What stands before the end marker of every PDF. Source: ISO 32000-1, 7.5.5.
const START_OF_XREF: &[u8] = b"startxref";

/// What may stand before the first significant byte of a text: the UTF-8 byte order mark.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Sums up a document.
pub(crate) struct Checker {
    bytes_max: u64,
    /// The first bytes, until the header is found.
    begin: Vec<u8>,
    has_begun: bool,
    /// Whether bytes stand before the header that no text has.
    begins_binary: bool,
    /// The last bytes: at least [`TRAILING_BYTES_MAX`] and the end marker's length, once that many have come.
    end: Vec<u8>,
    size_bytes: u64,
    hash: Sha256,
}

/// A document that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DocumentDigest {
    /// Hash of its bytes.
    pub(crate) sha256: Sha256Hash,
    /// Their number; above 0.
    pub(crate) size_bytes: u64,
}

/// How long a document should be, and who says so.
pub(crate) type ExpectedLength = (&'static str, Option<u64>);

impl Checker {
    /// A checker that refuses more than `bytes_max` bytes.
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

    /// Takes the next bytes, however they are cut.
    ///
    /// # Errors
    /// As soon as it is clear that this is no PDF, or too large a one.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        self.size_bytes = self.size_bytes.saturating_add(bytes.len() as u64);
        if self.size_bytes > self.bytes_max {
            return Err(Problem::TooLarge { bytes_max: self.bytes_max });
        }
        if !self.has_begun {
            self.look_for_header(bytes)?;
        }
        self.hash.update(bytes);
        self.keep_end(bytes);
        Ok(())
    }

    fn look_for_header(&mut self, bytes: &[u8]) -> Result<(), Problem> {
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

    /// Remembers the last bytes. What is older is dropped only now and then, so that each byte is moved once on average.
    fn keep_end(&mut self, bytes: &[u8]) {
        const KEPT: usize = TRAILING_BYTES_MAX + END.len();
        self.end.extend_from_slice(&bytes[bytes.len().saturating_sub(KEPT)..]);
        if self.end.len() >= 2 * KEPT {
            let surplus = self.end.len() - KEPT;
            self.end.drain(..surplus);
        }
    }

    /// Says whether the document is whole.
    ///
    /// # Errors
    /// When it is empty, does not begin or end as a PDF, or has another length than was said.
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
        if !ends_whole(&self.end) {
            return Err(Problem::NoEndMarker);
        }
        // A compressed file may quote the header and the end marker, but hardly what is written with every PDF as well.
        if self.begins_binary && !contains(&self.end, START_OF_XREF) {
            return Err(Problem::NotPdf);
        }
        Ok(DocumentDigest { sha256: Sha256Hash::from_digest(self.hash.finalize().into()), size_bytes: self.size_bytes })
    }
}

/// Whether the last bytes hold an end marker, with nothing of a PDF's body after it.
fn ends_whole(end: &[u8]) -> bool {
    let Some(at) = end.windows(END.len()).rposition(|window| window == END) else { return false };
    let trailing = &end[at + END.len()..];
    trailing.len() <= TRAILING_BYTES_MAX && !BODY_TOKENS.iter().any(|token| contains(trailing, token))
}

/// Whether a file begins, after a byte order mark and blanks, as other kinds of files do.
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
    fn a_whole_document_is_summed_up_however_it_is_cut() {
        let document = document(5_000, 10);
        let whole = DocumentDigest { sha256: Sha256Hash::of(&document), size_bytes: document.len() as u64 };
        let expected = [("a", None), ("b", Some(whole.size_bytes))];
        for size in [1, 2, 3, 7, 1023, 1024, 1025, 10_000] {
            let parts: Vec<&[u8]> = document.chunks(size).collect();
            assert_eq!(check(&parts, &expected), Ok(whole), "{size}");
        }
    }

    #[test]
    fn the_header_may_lie_anywhere_in_the_first_1024_bytes() {
        let http = "HTTP/1.1 200 OK\r\nContent-Type: application/pdf\r\n\r\n";
        let last = "x".repeat(BEGIN_BYTES - BEGIN.len());
        for before in ["\u{feff}", "\r\n", "\n\n  ", "\0\0", http, &last] {
            let document = [before.as_bytes(), &document(3_000, 0)].concat();
            for size in [1, 7, 1024, 10_000] {
                let parts: Vec<&[u8]> = document.chunks(size).collect();
                let whole = check(&parts, &[]).unwrap_or_else(|problem| panic!("{before:?}: {problem}"));
                assert_eq!(whole.sha256, Sha256Hash::of(&document), "the bytes are summed up as they came");
            }
        }
        let binary = |end: &[u8]| check(&[b"\x8b\xff\x01", b"%PDF-1.4\n1 0 obj\n", end], &[]);
        assert!(binary(b"startxref\n9\n%%EOF\n").is_ok());
        assert_eq!(binary(b"\n%%EOF\n"), Err(Problem::NotPdf), "as in a file that is compressed and says so nowhere");
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
    fn a_later_section_that_was_cut_off_is_seen() {
        let first = b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\nxref\ntrailer\n<<>>\nstartxref\n30\n%%EOF\n";
        let update = b"2 0 obj\n<<>>\nendobj\nxref\ntrailer\n<<>>\nstartxref\n99\n%%EOF\n";
        check(&[first, update], &[]).unwrap();
        for length in 7..update.len() - 1 {
            assert_eq!(check(&[first, &update[..length]], &[]), Err(Problem::NoEndMarker), "{length}");
        }
    }

    #[test]
    fn a_document_that_is_cut_anywhere_is_not_whole() {
        let document = document(300, 0);
        for length in 0..document.len() {
            assert!(check(&[&document[..length]], &[]).is_err(), "{length}");
        }
    }

    #[test]
    fn what_is_no_document_is_refused_as_early_as_can_be() {
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
    fn another_length_than_was_said_is_named_with_who_said_it() {
        let error = check(&[&document(10, 0)], &[("Content-Length", Some(7))]).unwrap_err();
        assert_eq!(error, Problem::Length { source_name: "Content-Length", expected: 7, received: 25 });
    }
}
