//! Blocks of documentation with the recorded output of commands.
//!
//! A block follows a line `<!-- recorded: NAME -->`. Tests run its commands and compare the output with the page, apart
//! from numbers, times and ids; with `RIVERLOCK_RECORD=1` (`make docs`) they write it into the page instead.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
};

/// If this variable is set, blocks are written; otherwise they are compared.
const RECORD: &str = "RIVERLOCK_RECORD";

/// Shortest run of hexadecimal digits and dashes that counts as an id.
const ID_CHARS_MIN: usize = 16;

/// Whether pages are written.
pub(crate) fn is_recording() -> bool {
    std::env::var_os(RECORD).is_some_and(|value| value == "1")
}

/// A page, with its stale blocks.
pub(crate) struct Page {
    path: PathBuf,
    text: String,
    seen: BTreeSet<String>,
    stale: String,
}

impl Page {
    /// A page of the repository.
    pub(crate) fn open(path: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { path, text, seen: BTreeSet::new(), stale: String::new() }
    }

    /// Whether the page has a block of this name.
    pub(crate) fn has_block(&self, name: &str) -> bool {
        find(&self.text, name).is_some()
    }

    /// Compares a block with output, or writes it.
    pub(crate) fn block(&mut self, name: &str, printed: &str) {
        self.block_like(name, printed, str::to_owned);
    }

    /// Like [`Page::block`], but compares only the parts that `stable` returns.
    pub(crate) fn block_like(&mut self, name: &str, printed: &str, stable: impl Fn(&str) -> String) {
        let (range, indent) =
            find(&self.text, name).unwrap_or_else(|| panic!("{} has no block {name}", self.path.display()));
        assert!(self.seen.insert(name.to_owned()), "block {name} is used twice");
        let before = &self.text[range.clone()];
        if is_recording() {
            let lines = printed.lines().map(|line| format!("{indent}{line}").trim_end().to_owned() + "\n");
            self.text.replace_range(range, &lines.collect::<String>());
            return;
        }
        let (page, now) = (shapes(&stable(before)), shapes(&stable(printed)));
        if page != now {
            let missing: Vec<_> = now.difference(&page).collect();
            let gone: Vec<_> = page.difference(&now).collect();
            writeln!(
                self.stale,
                "{name}: printed and not in the page: {missing:#?}\nin the page and not printed: {gone:#?}"
            )
            .unwrap();
        }
    }

    /// Writes the page, or fails if a block is stale or was not compared.
    pub(crate) fn end(self) {
        let all =
            self.text.lines().filter_map(|line| line.trim().strip_prefix("<!-- recorded: ")?.strip_suffix(" -->"));
        let all: BTreeSet<String> = all.map(str::to_owned).collect();
        assert_eq!(all, self.seen, "{}: blocks, and blocks that a test records", self.path.display());
        if is_recording() {
            std::fs::write(&self.path, &self.text).unwrap();
        }
        assert!(
            self.stale.is_empty(),
            "{} is not what the commands print; `make docs` records it anew:\n{}",
            self.path.display(),
            self.stale
        );
    }
}

/// The range of the lines between a block's fences, and their indentation.
fn find(text: &str, name: &str) -> Option<(std::ops::Range<usize>, String)> {
    let marker = format!("<!-- recorded: {name} -->\n");
    let at = text.find(&marker)?;
    let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let indent = text[line..at].to_owned();
    let fence = at + marker.len();
    let start = fence + text[fence..].find('\n')? + 1;
    assert!(text[fence..start].trim().starts_with("```"), "no fence follows {marker}");
    let end = start + text[start..].find(&format!("{indent}```\n"))?;
    Some((start..end, indent))
}

/// The distinct lines without numbers, times, ids and column widths.
fn shapes(text: &str) -> BTreeSet<String> {
    text.lines().map(|line| line.split_whitespace().map(shape).collect::<Vec<_>>().join(" ")).collect()
}

fn shape(word: &str) -> String {
    let (mut shape, mut rest) = (String::new(), word);
    let is_id = |c: char| c.is_ascii_hexdigit() || c == '-';
    while let Some(first) = rest.chars().next() {
        let id = rest.find(|c| !is_id(c)).unwrap_or(rest.len());
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if id >= ID_CHARS_MIN {
            shape.push_str("ID");
            rest = &rest[id..];
        } else if digits > 0 {
            // A fraction is part of its number, and may be missing where it is 0.
            let fraction = rest[digits..].strip_prefix('.').map_or(0, |fraction| {
                let end = fraction.find(|c: char| !c.is_ascii_digit()).unwrap_or(fraction.len());
                if end > 0 { end + 1 } else { 0 }
            });
            shape.push('#');
            rest = &rest[digits + fraction..];
        } else {
            shape.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    shape
}

#[test]
fn lines_are_compared_without_what_differs_each_time() {
    let page = "order 252246055452 (test): ready\n  12 records,   3 of them 2026-01-05 08:01:43.12 UTC\nplan 366fb4cb0a16725f\n";
    let now = "  7 records, 30 of them 2027-01-05 08:01:43 UTC\nplan 0000000000000000\norder 1 (test): ready\norder 2 (test): ready";
    assert_eq!(shapes(page), shapes(now));
    assert_ne!(shapes(page), shapes(&now.replace("ready", "complete")));
    assert_eq!(shape("riverlock.raw.orders[3]@17"), "riverlock.raw.orders[#]@#");
    assert_eq!(shape("6e5bf525-3907-40c5-86a9-f14ce4f33f35.pdf"), "ID.pdf");
}

#[test]
fn a_block_is_found_with_its_indentation() {
    let text = "a\n  <!-- recorded: x -->\n  ```\n  one\n  ```\n<!-- recorded: y -->\n```\ntwo\n```\n";
    let (range, indent) = find(text, "x").unwrap();
    assert_eq!((&text[range], indent.as_str()), ("  one\n", "  "));
    assert_eq!(&text[find(text, "y").unwrap().0], "two\n");
    assert!(find(text, "z").is_none());
}
