//! Lists: aligned tables that fit the terminal, or one line per entry for other programs.

use std::io::IsTerminal as _;

use comfy_table::{CellAlignment, ContentArrangement};

use super::text::{MISSING, fields, printable};

/// Set to a number of columns, lists are printed as tables of this width even into a pipe.
const WIDTH_VARIABLE: &str = "RIVERLOCK_TERMINAL_WIDTH";

/// The width where the terminal does not report one, in columns.
const WIDTH_DEFAULT: u16 = 80;

/// Spaces between two columns.
const GAP: u16 = 2;

/// A column of a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    heading: &'static str,
    alignment: CellAlignment,
}

impl Column {
    /// A column of texts.
    pub(crate) const fn text(heading: &'static str) -> Self {
        Self { heading, alignment: CellAlignment::Left }
    }

    /// A column of numbers.
    pub(crate) const fn number(heading: &'static str) -> Self {
        Self { heading, alignment: CellAlignment::Right }
    }
}

/// How a list is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// An aligned table with headings, of at most this width in columns; `None` is unlimited. If words would have to be
    /// broken to fit, each entry becomes a block of lines instead.
    Table { width: Option<u16> },
    /// One line per entry without headings, with tabs between complete values.
    Lines,
}

impl Layout {
    /// The layout for lists on standard output.
    pub(crate) fn of_lists() -> Self {
        if let Some(width) = forced_width() {
            return Self::Table { width: Some(width) };
        }
        if !std::io::stdout().is_terminal() {
            return Self::Lines;
        }
        let width = terminal_size::terminal_size_of(std::io::stdout()).map_or(WIDTH_DEFAULT, |(width, _)| width.0);
        Self::Table { width: Some(width) }
    }

    /// The layout for tables inside other text on standard output.
    pub(crate) fn of_sections() -> Self {
        match Self::of_lists() {
            Self::Lines => Self::Table { width: None },
            table @ Self::Table { .. } => table,
        }
    }

    /// Whether the list is read on a terminal.
    pub(crate) fn is_table(self) -> bool {
        matches!(self, Self::Table { .. })
    }
}

#[expect(clippy::disallowed_methods, reason = "the terminal's width is no setting of a service")]
fn forced_width() -> Option<u16> {
    std::env::var(WIDTH_VARIABLE).ok()?.parse().ok()
}

/// The entries of a list.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds an entry with a value for each column. Control characters are replaced.
    pub(crate) fn row<const N: usize>(&mut self, values: [String; N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(values.into_iter().map(|value| printable(&value)).collect());
    }

    /// Writes the entries under a title, as a section of a longer text; nothing without entries.
    pub(crate) fn section(&self, text: &mut String, title: &str, layout: Layout) {
        if !self.rows.is_empty() {
            text.push_str(&format!("\n{title}\n{}", self.render(layout, "  ")));
        }
    }

    /// The list as text, each line with this indentation; empty without entries.
    pub(crate) fn render(&self, layout: Layout, indent: &str) -> String {
        match layout {
            _ if self.rows.is_empty() => String::new(),
            Layout::Lines => self.rows.iter().map(|row| format!("{indent}{}\n", row.join("\t"))).collect(),
            Layout::Table { width } => self.aligned(width, indent),
        }
    }

    /// The width that the table needs if values are broken only between words.
    fn unbroken_width(&self) -> usize {
        let longest_word =
            |text: &str| text.split_whitespace().map(|word| word.chars().count()).max().unwrap_or_default();
        let of_column = |(index, column): (usize, &Column)| {
            let values = self.rows.iter().map(|row| longest_word(&row[index])).max().unwrap_or_default();
            values.max(longest_word(column.heading))
        };
        let words: usize = self.columns.iter().enumerate().map(of_column).sum();
        words + usize::from(GAP) * self.columns.len().saturating_sub(1)
    }

    /// Each entry as lines of a heading and a value; missing values are left out.
    fn blocks(&self, indent: &str) -> String {
        let block = |row: &Vec<String>| {
            let present = |value: &String| if value == MISSING { String::new() } else { value.clone() };
            let lines: Vec<_> =
                self.columns.iter().zip(row).map(|(column, value)| (column.heading, present(value))).collect();
            let mut text = String::new();
            fields(&mut text, indent, &lines);
            text
        };
        self.rows.iter().map(block).collect::<Vec<_>>().join("\n")
    }

    fn aligned(&self, width: Option<u16>, indent: &str) -> String {
        if width.is_some_and(|width| self.unbroken_width() + indent.len() > usize::from(width)) {
            return self.blocks(indent);
        }
        let mut table = comfy_table::Table::new();
        table.set_header(self.columns.iter().map(|column| column.heading));
        table.add_rows(&self.rows);
        for (column, shape) in table.column_iter_mut().zip(&self.columns) {
            column.set_padding((0, GAP)).set_cell_alignment(shape.alignment);
        }
        let indent_width = u16::try_from(indent.len()).unwrap_or(u16::MAX);
        match width {
            // The gap behind the last column is not printed.
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic);
                table.set_width(width.saturating_sub(indent_width).saturating_add(GAP));
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        table.load_style(comfy_table::TableStyle::new());
        table.lines().map(|line| format!("{indent}{}", line.trim_end()).trim_end().to_owned() + "\n").collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] =
        [Column::text("CHANGED"), Column::text("ORDER"), Column::text("STATUS"), Column::number("VERSION")];

    fn orders() -> Table {
        let mut table = Table::new(&COLUMNS);
        let row = |changed: &str, order: &str, status: &str, version: i32| {
            [changed.to_owned(), order.to_owned(), status.to_owned(), version.to_string()]
        };
        table.row(row("2026-01-31T08:00:00.000Z", "924469841958", "complete", 4));
        table.row(row("2026-01-31T08:01:02.345Z", "a\tb", "on_hold", 12));
        table
    }

    #[test]
    fn a_wide_terminal_shows_an_aligned_table_with_headings() {
        assert_eq!(
            orders().render(Layout::Table { width: Some(100) }, ""),
            "\
CHANGED                   ORDER         STATUS    VERSION
2026-01-31T08:00:00.000Z  924469841958  complete        4
2026-01-31T08:01:02.345Z  a\u{fffd}b           on_hold        12
"
        );
    }

    #[test]
    fn a_narrow_terminal_shows_long_values_on_several_lines() {
        const COLUMNS: [Column; 2] = [Column::text("ORDER"), Column::text("ERROR")];
        let mut table = Table::new(&COLUMNS);
        table.row(["924469841958", "database: new row violates check constraint bug"].map(str::to_owned));
        assert_eq!(
            table.render(Layout::Table { width: Some(42) }, "  "),
            "  ORDER         ERROR\n  924469841958  database: new row violates\n                check constraint bug\n"
        );
    }

    #[test]
    fn a_terminal_that_is_too_narrow_for_a_table_shows_blocks() {
        let mut orders = orders();
        orders.row(["2026-01-31T08:02:00.000Z", "1", MISSING, "1"].map(str::to_owned));
        assert_eq!(
            orders.render(Layout::Table { width: Some(40) }, ""),
            "\
CHANGED  2026-01-31T08:00:00.000Z
ORDER    924469841958
STATUS   complete
VERSION  4

CHANGED  2026-01-31T08:01:02.345Z
ORDER    a\u{fffd}b
STATUS   on_hold
VERSION  12

CHANGED  2026-01-31T08:02:00.000Z
ORDER    1
VERSION  1
"
        );
    }

    #[test]
    fn a_pipe_gets_one_complete_line_per_entry() {
        assert_eq!(
            orders().render(Layout::Lines, ""),
            "2026-01-31T08:00:00.000Z\t924469841958\tcomplete\t4\n2026-01-31T08:01:02.345Z\ta\u{fffd}b\ton_hold\t12\n"
        );
    }

    #[test]
    fn tables_inside_other_text_are_indented_and_may_have_any_width() {
        let text = orders().render(Layout::Table { width: None }, "  ");
        assert!(text.starts_with("  CHANGED                   ORDER "), "{text}");
        assert_eq!(Table::new(&COLUMNS).render(Layout::Table { width: None }, ""), "");
    }
}
