//! Reference pages that are generated from the code. Tests compare them; `make references` writes them.

use std::path::PathBuf;

use crate::{
    pages::recorded::is_recording,
    tidy::code::{read, root},
};

mod commands;
mod configuration;
mod errors;
mod example;
mod metrics;
mod settings;
mod topics;

/// Compares the generated part of a page with the code, or writes it.
///
/// The part is between `<!-- generated: NAME -->` and `<!-- end of NAME -->`.
fn check_part(page: &str, name: &str, generated: &str) {
    let (path, text) = open(page);
    let (begin, end) = (format!("<!-- generated: {name} -->\n"), format!("<!-- end of {name} -->"));
    let start = text.find(&begin).unwrap_or_else(|| panic!("{page} has no line {begin}")) + begin.len();
    let stop = start + text[start..].find(&end).unwrap_or_else(|| panic!("{page} has no line {end}"));
    let wanted = format!("\n{}\n\n", generated.trim_end());
    if is_recording() {
        std::fs::write(path, format!("{}{wanted}{}", &text[..start], &text[stop..])).unwrap();
        return;
    }
    assert_same(page, &text[start..stop], &wanted);
}

/// Like [`check_part`] for a file that is generated as a whole.
fn check_file(page: &str, generated: &str) {
    let path = root().join(page);
    if is_recording() {
        std::fs::write(path, generated).unwrap();
        return;
    }
    assert_same(page, &read(&path), generated);
}

fn open(page: &str) -> (PathBuf, String) {
    let path = root().join(page);
    let text = read(&path);
    (path, text)
}

/// Fails with the first line that differs.
fn assert_same(page: &str, found: &str, wanted: &str) {
    if found == wanted {
        return;
    }
    let (mut found, mut wanted) = (found.lines(), wanted.lines());
    loop {
        let (is, should_be) = (found.next(), wanted.next());
        assert!(
            is == should_be,
            "{page} is stale; `make references` writes it.\n  it has {is:?}\n  not    {should_be:?}"
        );
        assert!(is.is_some(), "{page} differs in white space only; `make references` writes it");
    }
}

/// A text in a cell of a Markdown table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// A row of a Markdown table.
fn row<'a>(cells: impl IntoIterator<Item = &'a str>) -> String {
    let cells: Vec<String> = cells.into_iter().map(cell).collect();
    format!("| {} |\n", cells.join(" | "))
}
