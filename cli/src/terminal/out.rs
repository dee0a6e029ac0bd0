//! The only module that writes to standard output and standard error.
//!
//! Either may be closed by its reader, as `| head` does; `print!` would panic. A command continues without its reader, so that
//! it completes its work and its exit code is right.

use std::{
    fmt,
    io::{ErrorKind, Write as _},
    sync::atomic::{AtomicU8, Ordering},
};

use serde::Serialize;

use super::{
    table::{Column, Layout, Table},
    text::count,
};

/// The state of standard output.
static STATE: AtomicU8 = AtomicU8::new(OPEN);
const OPEN: u8 = 0;
/// Its reader has closed it.
const CLOSED: u8 = 1;
/// A write failed, for example because a disk is full.
const FAILED: u8 = 2;

/// Prints a text as it is.
pub fn print(text: &str) {
    write(text.as_bytes());
}

/// Writes bytes as they are, for example a document.
pub fn write(bytes: &[u8]) {
    if STATE.load(Ordering::Relaxed) != OPEN {
        return;
    }
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(bytes).and_then(|()| out.flush()) {
        let is_closed = error.kind() == ErrorKind::BrokenPipe;
        STATE.store(if is_closed { CLOSED } else { FAILED }, Ordering::Relaxed);
        if !is_closed {
            note(&format!("riverlock: standard output cannot be written to: {error}"));
        }
    }
}

/// Whether a write failed although standard output was not closed by its reader.
#[must_use]
pub fn has_failed() -> bool {
    STATE.load(Ordering::Relaxed) == FAILED
}

/// Prints a line.
pub fn line(text: &str) {
    print(&format!("{text}\n"));
}

/// Prints a line that is not a result: progress, advice, an error. It goes to standard error; that its reader has closed it
/// is ignored.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// How a command prints its results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Output {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Output {
    /// Prints the whole result: as one JSON value, or as the text that `write` produces.
    ///
    /// # Errors
    /// When the value cannot be serialized.
    pub fn whole<T: Serialize + ?Sized>(
        self,
        value: &T,
        write: impl FnOnce(&mut String) -> fmt::Result,
    ) -> anyhow::Result<()> {
        let mut text = String::new();
        if self.json {
            text = serde_json::to_string_pretty(value)?;
            text.push('\n');
        } else {
            write(&mut text)?;
        }
        print(&text);
        Ok(())
    }

    /// Prints one of many results as soon as it is known: as a line of JSON, or as a line of text.
    ///
    /// # Errors
    /// When the value cannot be serialized.
    pub fn each<T: Serialize + ?Sized>(self, value: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        line(&if self.json { serde_json::to_string(value)? } else { text() });
        Ok(())
    }

    /// Prints a line unless the output is JSON.
    pub fn text(self, text: &str) {
        if !self.json {
            line(text);
        }
    }

    /// Prints a page of a list as a table, and how to continue if there is more: in JSON `{"items": […], "next": …}`. Into a
    /// pipe go only the entries; the count then goes to standard error.
    ///
    /// # Errors
    /// When the entries cannot be serialized.
    pub(crate) fn page<T: Serialize, const N: usize>(
        self,
        page: &Page<T>,
        noun: &str,
        columns: &[Column; N],
        values: impl Fn(&T) -> [String; N],
    ) -> anyhow::Result<()> {
        let layout = Layout::of_lists();
        self.whole(page, |text| {
            let mut table = Table::new(columns);
            page.items.iter().for_each(|item| table.row(values(item)));
            text.push_str(&table.render(layout, ""));
            Ok(())
        })?;
        let count = count(page.items.len() as u64, noun);
        let footer = match &page.next {
            Some(next) => format!("{count}; more with --after '{next}'"),
            None => count,
        };
        match (self.json, layout.is_table()) {
            (true, _) => {}
            // A blank line separates the count from the entries.
            (false, true) if !page.items.is_empty() => line(&format!("\n{footer}")),
            (false, true) => line(&footer),
            (false, false) => note(&footer),
        }
        Ok(())
    }
}

/// A page of a list.
#[derive(Debug, Serialize)]
pub struct Page<T> {
    /// At most `--limit` entries.
    pub items: Vec<T>,
    /// The value of `--after` for the next page; absent on the last page.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// Cuts `items`, which are read with a limit of one more than `limit`, to a page. `cursor` is the value of `--after` that
    /// continues behind an item.
    pub fn cut(mut items: Vec<T>, limit: i64, cursor: impl Fn(&T) -> String) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let has_more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| has_more).map(cursor);
        Self { items, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_the_cursor_of_the_next_one_unless_it_is_the_last() {
        let page = Page::cut(vec![1, 2, 3], 2, ToString::to_string);
        assert_eq!((page.items, page.next), (vec![1, 2], Some("2".to_owned())));
        let page = Page::cut(vec![1, 2], 2, ToString::to_string);
        assert_eq!((page.items, page.next), (vec![1, 2], None));
        assert_eq!(Page::cut(Vec::<u8>::new(), 2, ToString::to_string).next, None);
    }
}
