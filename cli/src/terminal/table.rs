//! Lists: aligned tables that fit the terminal, or one line per entry for other programs.

use std::io::IsTerminal as _;

use comfy_table::{CellAlignment, ContentArrangement};

use super::text::printable;

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
    /// An aligned table with headings, of at most this width in columns; `None` is unlimited.
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
        self.rows.push(values.iter().map(|value| printable(value)).collect());
    }

    /// Writes the entries under a title, as a section of a longer text; nothing without entries.
    pub(crate) fn section(&self, text: &mut String, title: &str) {
        if !self.rows.is_empty() {
            text.push_str(&format!("\n{title}\n{}", self.render(Layout::of_sections(), "  ")));
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

    fn aligned(&self, width: Option<u16>, indent: &str) -> String {
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
    fn a_narrow_terminal_wraps_values_and_loses_none() {
        let text = orders().render(Layout::Table { width: Some(40) }, "  ");
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
        let joined: String = text.split_whitespace().collect();
        for part in ["CHANGED", "924469", "complete", "12"] {
            assert!(joined.contains(part), "{text}");
        }
        assert!(text.lines().count() > 3, "{text}");
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
