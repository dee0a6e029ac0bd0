//! Invoices: small, valid PDF files that are a pure function of their file id.
//!
//! The server therefore stores none, and tests compute the bytes and the hash of a correct download from a file id.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::data::seed;

/// Fewest lines of text on an invoice.
const LINES_MIN: usize = 8;

/// Most lines of text on an invoice: they fit the page and keep the file under 4 kB.
const LINES_MAX: usize = 40;

/// The purpose of a file, which the last bit of its id determines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// An invoice: the last bit is 0.
    Invoice,
    /// A credit memo: the last bit is 1.
    CreditMemo,
}

impl Purpose {
    /// The purpose of the file with this id.
    pub fn of(file_id: Uuid) -> Self {
        if file_id.as_u128() & 1 == 0 { Self::Invoice } else { Self::CreditMemo }
    }

    /// The id that comes from `file_id` for a file with this purpose.
    pub fn mark(self, file_id: Uuid) -> Uuid {
        Uuid::from_u128(file_id.as_u128() & !1 | u128::from(self == Self::CreditMemo))
    }

    /// Digital River's name of the purpose.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invoice => "customer_invoice",
            Self::CreditMemo => "customer_credit_memo",
        }
    }

    /// The title on the page.
    pub fn title(self) -> &'static str {
        match self {
            Self::Invoice => "Invoice",
            Self::CreditMemo => "Credit memo",
        }
    }
}

/// The invoice (or credit memo) with this file id: PDF 1.4, one page, 1 to 4 kB. Any text is taken as an id; that only
/// UUIDs exist is the server's rule.
pub fn invoice_pdf(file_id: &str) -> Vec<u8> {
    let stream = page_text(file_id);
    let objects = [
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R \
         /Resources << /Font << /F1 5 0 R >> >> >>"
            .to_owned(),
        format!("<< /Length {} >>\nstream\n{stream}\nendstream", stream.len()),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Courier /Encoding /WinAnsiEncoding >>".to_owned(),
    ];

    let mut file = "%PDF-1.4\n".as_bytes().to_vec();
    // Four bytes over 127 mark the file as binary.
    file.extend_from_slice(b"%\xE2\xE3\xCF\xD3\n");
    let mut offsets = Vec::with_capacity(objects.len());
    for (number, object) in (1..).zip(&objects) {
        offsets.push(file.len());
        file.extend_from_slice(format!("{number} 0 obj\n{object}\nendobj\n").as_bytes());
    }

    let xref_offset = file.len();
    let size = objects.len() + 1;
    let mut tail = format!("xref\n0 {size}\n0000000000 65535 f \n");
    for offset in offsets {
        writeln!(tail, "{offset:010} 00000 n ").expect("writing to a string does not fail");
    }
    write!(tail, "trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{xref_offset}\n%%EOF\n")
        .expect("writing to a string does not fail");
    file.extend_from_slice(tail.as_bytes());
    file
}

/// SHA-256 of [`invoice_pdf`], lower-case hexadecimal.
pub fn invoice_sha256(file_id: &str) -> String {
    hex::encode(Sha256::digest(invoice_pdf(file_id)))
}

/// The page's content stream: a title, the id, and a number of lines that follows from the id.
fn page_text(file_id: &str) -> String {
    let mut rng = seed::rng(seed::of_text(file_id), 0);
    let lines = rng.usize(LINES_MIN..=LINES_MAX);
    let title = Uuid::try_parse(file_id).map_or(Purpose::Invoice, Purpose::of).title().to_uppercase();
    let mut text = format!("BT\n/F1 11 Tf\n15 TL\n50 790 Td\n({title} \\(sandbox, not a tax document\\)) Tj T*\n");
    writeln!(text, "(File {}) Tj T* T*", escape(file_id)).expect("writing to a string does not fail");
    for line in 1..=lines {
        let (quantity, cents) = (rng.u32(1..=9), rng.u32(100..=99_999));
        let (whole, hundredths) = (cents / 100, cents % 100);
        writeln!(text, "({line:>3}  item {:08x}  {quantity} x {whole:>6}.{hundredths:02}) Tj T*", rng.u32(..))
            .expect("writing to a string does not fail");
    }
    text.push_str("ET");
    text
}

/// A text inside a PDF string: brackets and backslashes escaped, everything outside ASCII replaced.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '(' | ')' | '\\' => escaped.extend(['\\', character]),
            ' '..='~' => escaped.push(character),
            _ => escaped.push('?'),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0c9d6a2e-55a1-4c3b-8f6b-1d2c3b4a5f60";

    /// Byte position of `needle`, which must be there.
    fn find(hay: &[u8], needle: &[u8]) -> usize {
        hay.windows(needle.len()).rposition(|window| window == needle).expect("present")
    }

    #[test]
    fn the_cross_reference_table_points_at_every_object() {
        for id in [ID, "a", "(odd) \\ id é"] {
            let file = invoice_pdf(id);
            assert!(file.starts_with(b"%PDF-1.4\n"));
            assert!(file.ends_with(b"%%EOF\n"));
            let start = find(&file, b"startxref\n") + 10;
            let offset: usize = std::str::from_utf8(&file[start..file.len() - 7]).unwrap().parse().unwrap();
            let table = std::str::from_utf8(&file[offset..]).unwrap();
            assert!(table.starts_with("xref\n0 6\n"));
            for (number, entry) in table.as_bytes()[9..].chunks(20).take(6).enumerate().skip(1) {
                let entry = std::str::from_utf8(entry).unwrap();
                assert!(entry.ends_with(" 00000 n \n"), "{entry:?}");
                let at: usize = entry[..10].parse().unwrap();
                assert!(file[at..].starts_with(format!("{number} 0 obj\n").as_bytes()));
            }
        }
    }

    #[test]
    fn an_id_determines_the_purpose_of_its_file() {
        for id in [Uuid::from_u128(6), Uuid::from_u128(7)] {
            for purpose in [Purpose::Invoice, Purpose::CreditMemo] {
                let marked = purpose.mark(id);
                assert_eq!(Purpose::of(marked), purpose);
                let text = String::from_utf8_lossy(&invoice_pdf(&marked.to_string())).into_owned();
                assert!(text.contains(&format!("({} ", purpose.title().to_uppercase())));
            }
        }
    }

    #[test]
    fn the_stream_has_its_stated_length_and_shows_the_file_id() {
        let file = String::from_utf8_lossy(&invoice_pdf(ID)).into_owned();
        let length: usize = file.split("/Length ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let stream = file.split("stream\n").nth(1).unwrap().strip_suffix("\nend").unwrap();
        assert_eq!(stream.len(), length);
        assert!(stream.contains(ID));
    }

    #[test]
    fn the_size_varies_with_the_id_between_1_and_4_kilobytes() {
        let sizes: std::collections::BTreeSet<usize> =
            (0..200).map(|n| invoice_pdf(&format!("{n:08}-0000-4000-8000-000000000000")).len()).collect();
        assert!(sizes.len() > 20);
        assert!(*sizes.first().unwrap() >= 1000 && *sizes.last().unwrap() <= 4096, "{sizes:?}");
        assert_eq!(invoice_pdf(ID), invoice_pdf(ID));
        assert_eq!(invoice_sha256(ID).len(), 64);
    }
}
