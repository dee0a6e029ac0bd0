//! The only place that writes to standard output and standard error.
//!
//! Either may be closed by its reader, as `| head` does; `print!` would panic. A command goes on without its reader, so that
//! it finishes what it does and its exit code is true.

use std::{
    fmt::{self, Write as _},
    io::{ErrorKind, Write as _},
    sync::atomic::{AtomicU8, Ordering},
};

use serde::Serialize;

/// What became of standard output.
static STATE: AtomicU8 = AtomicU8::new(OPEN);
const OPEN: u8 = 0;
/// Its reader has gone away.
const CLOSED: u8 = 1;
/// It could not be written to, for example because a disk is full.
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

/// Whether nobody reads standard output any more, so that a command that only looks may end.
#[must_use]
pub fn is_closed() -> bool {
    STATE.load(Ordering::Relaxed) != OPEN
}

/// Whether something that was printed could not be written, although somebody waits for it.
#[must_use]
pub fn has_failed() -> bool {
    STATE.load(Ordering::Relaxed) == FAILED
}

/// Prints a line.
pub fn line(text: &str) {
    print(&format!("{text}\n"));
}

/// Tells people something that is no result: progress, advice, an error. It goes to standard error, where nothing can be done
/// about a reader that has gone away.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// How a command prints what it found or did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Output {
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

impl Output {
    /// Prints the whole result: as one JSON value, or as the text that `write` makes of it.
    ///
    /// # Errors
    /// When the value cannot be made JSON.
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

    /// Prints one of many results when it is there: as a line of JSON, or as a line of text.
    ///
    /// # Errors
    /// When the value cannot be made JSON.
    pub fn each<T: Serialize + ?Sized>(self, value: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        line(&if self.json { serde_json::to_string(value)? } else { text() });
        Ok(())
    }

    /// Prints a line for people only.
    pub fn people(self, text: &str) {
        if !self.json {
            line(text);
        }
    }

    /// Prints a page of a list, and how to go on if there is more: in JSON `{"items": […], "next": …}`.
    ///
    /// # Errors
    /// When the rows cannot be made JSON.
    pub fn page<T: Serialize>(
        self,
        page: &Page<T>,
        what: &str,
        mut row: impl FnMut(&mut String, &T) -> fmt::Result,
    ) -> anyhow::Result<()> {
        self.whole(page, |text| {
            page.items.iter().try_for_each(|item| row(text, item))?;
            let count = page.items.len();
            match &page.next {
                Some(next) => writeln!(text, "{count} {what}, and there are more: --after '{next}' goes on"),
                None => writeln!(text, "{count} {what}"),
            }
        })
    }
}

/// A page of a list.
#[derive(Debug, Serialize)]
pub struct Page<T> {
    /// At most as many as `--limit` says.
    pub items: Vec<T>,
    /// What `--after` takes for the next page; none on the last.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// Cuts `items`, of which one more than `limit` was asked for, to a page; `cursor` is where the next one begins.
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
    fn a_page_says_where_the_next_one_begins_unless_it_is_the_last() {
        let page = Page::cut(vec![1, 2, 3], 2, ToString::to_string);
        assert_eq!((page.items, page.next), (vec![1, 2], Some("2".to_owned())));
        let page = Page::cut(vec![1, 2], 2, ToString::to_string);
        assert_eq!((page.items, page.next), (vec![1, 2], None));
        assert_eq!(Page::cut(Vec::<u8>::new(), 2, ToString::to_string).next, None);
    }
}
