//! Checks a document while it streams by: it is never whole in memory, and never opened.
//!
//! Deliberately absent: any understanding of PDF beyond its first and last bytes. A parser of hostile files is a risk that
//! an archive need not take.

use riverlock_schemas::hash::Sha256Hash;
use sha2::{Digest, Sha256};

use crate::problem::Problem;

/// What every PDF begins with. Source: ISO 32000-1, 7.5.2.
const BEGIN: &[u8] = b"%PDF-";

/// What every PDF ends with. Source: ISO 32000-1, 7.5.5.
const END: &[u8] = b"%%EOF";

/// How near to the end the end marker must be, bytes. Source: ISO 32000-1, annex H, implementation note 18: readers look in
/// the last 1024 bytes.
const END_BYTES: usize = 1024;

/// Sums up a document.
pub(crate) struct Checker {
    bytes_max: u64,
    /// The first bytes, until there are enough to tell.
    begin: Vec<u8>,
    /// The last bytes.
    end: Vec<u8>,
    size_bytes: u64,
    hash: Sha256,
}

/// A document that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
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
            begin: Vec::with_capacity(BEGIN.len()),
            end: Vec::with_capacity(2 * END_BYTES),
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
        if self.begin.len() < BEGIN.len() {
            let missing = BEGIN.len() - self.begin.len();
            self.begin.extend_from_slice(&bytes[..missing.min(bytes.len())]);
            if !BEGIN.starts_with(&self.begin) {
                return Err(Problem::NotPdf);
            }
        }
        self.hash.update(bytes);
        self.end.extend_from_slice(&bytes[bytes.len().saturating_sub(END_BYTES)..]);
        let surplus = self.end.len().saturating_sub(END_BYTES);
        self.end.drain(..surplus);
        Ok(())
    }

    /// Says whether the document is whole.
    ///
    /// # Errors
    /// When it is empty, does not begin or end as a PDF, or has another length than was said.
    pub(crate) fn finish(self, expected: &[ExpectedLength]) -> Result<Checked, Problem> {
        if self.size_bytes == 0 {
            return Err(Problem::Empty);
        }
        if self.begin != BEGIN {
            return Err(Problem::NotPdf);
        }
        for &(source_name, length) in expected {
            if let Some(expected) = length.filter(|length| *length != self.size_bytes) {
                return Err(Problem::Length { source_name, expected, received: self.size_bytes });
            }
        }
        if !self.end.windows(END.len()).any(|window| window == END) {
            return Err(Problem::NoEndMarker);
        }
        Ok(Checked { sha256: Sha256Hash::from_digest(self.hash.finalize().into()), size_bytes: self.size_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parts: &[&[u8]], expected: &[ExpectedLength]) -> Result<Checked, Problem> {
        let mut checker = Checker::new(10_000);
        parts.iter().try_for_each(|part| checker.push(part))?;
        checker.finish(expected)
    }

    fn document(filling: usize, after_the_end: usize) -> Vec<u8> {
        [b"%PDF-1.4\n".as_slice(), &vec![b'x'; filling], b"\n%%EOF", &vec![b'\n'; after_the_end]].concat()
    }

    #[test]
    fn a_whole_document_is_summed_up_however_it_is_cut() {
        let document = document(5_000, 10);
        let whole = Checked { sha256: Sha256Hash::of(&document), size_bytes: document.len() as u64 };
        let expected = [("a", None), ("b", Some(whole.size_bytes))];
        for size in [1, 2, 3, 7, 1023, 1024, 1025, 10_000] {
            let parts: Vec<&[u8]> = document.chunks(size).collect();
            assert_eq!(check(&parts, &expected), Ok(whole), "{size}");
        }
    }

    #[test]
    fn the_end_marker_must_be_in_the_last_1024_bytes() {
        assert!(check(&[&document(10, END_BYTES - END.len())], &[]).is_ok());
        assert_eq!(check(&[&document(10, END_BYTES - END.len() + 1)], &[]), Err(Problem::NoEndMarker));
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
        for body in ["<!doctype html>", "{\"type\": \"unauthorized\"}", "%PDX-1.4", "\n%PDF-1.4"] {
            let mut checker = Checker::new(1_000);
            assert_eq!(checker.push(body.as_bytes()), Err(Problem::NotPdf), "{body}");
        }
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
