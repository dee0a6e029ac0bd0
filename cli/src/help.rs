//! The help: commands in groups, one compact form for `-h` and `--help`, an example for each command.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command, CommandFactory, builder::Resettable};

/// Widest help, in columns.
const WIDTH_MAX: usize = 100;

/// The commands by what they are used for, in the order of the help.
pub const GROUPS: [(&str, &[&str]); 4] = [
    (
        "Run",
        &["setup", "config", "ingest", "processor", "invoice-fetcher", "up", "webhooks", "shipments", "healthcheck"],
    ),
    ("Look", &["orders", "invoices", "trace", "audit"]),
    ("Repair", &["dead-letters", "outbox", "quarantine", "reconcile", "replay", "refold", "rebuild"]),
    ("Develop", &["sandbox", "demo", "stack", "openapi"]),
];

/// The help of a command: its description, its usage, its arguments, its examples.
const TEMPLATE: &str = "{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

/// A command line whose commands have this help.
#[must_use]
pub fn with_help<T: CommandFactory>() -> Command {
    let command = T::command();
    let overview = overview(&command);
    let template =
        format!("{{before-help}}{{usage-heading}} {{usage}}\n\n{overview}Options:\n{{options}}{{after-help}}");
    prepared(command).help_template(template).disable_help_subcommand(false)
}

/// Gives a command and its subcommands the compact help. The description is printed in full by both `-h` and `--help`;
/// lists of commands print its first paragraph.
fn prepared(command: Command) -> Command {
    let description = command.get_long_about().or_else(|| command.get_about()).cloned().unwrap_or_default();
    let help = Arg::new("help").short('h').long("help").action(ArgAction::HelpShort).help("Print help");
    command
        .before_help(description)
        .long_about(Resettable::Reset)
        .help_template(TEMPLATE)
        .max_term_width(WIDTH_MAX)
        .disable_help_flag(true)
        .disable_help_subcommand(true)
        .arg(help.help_heading("Global options"))
        .mut_subcommands(prepared)
}

/// The list of all commands in their groups.
fn overview(command: &Command) -> String {
    let width = command.get_subcommands().map(|command| command.get_name().len()).max().unwrap_or_default();
    let mut text = String::new();
    for (group, names) in GROUPS {
        text.push_str(&format!("{group}:\n"));
        for command in names.iter().filter_map(|name| command.find_subcommand(name)) {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            text.push_str(&format!("  {:<width$}  {about}\n", command.get_name()));
        }
        text.push('\n');
    }
    text
}

/// The help of every command as a page of Markdown.
///
/// # Errors
/// Never: a string can always be written to.
pub fn reference<T: CommandFactory>() -> Result<String, std::fmt::Error> {
    let mut command = with_help::<T>().term_width(WIDTH_MAX);
    command.build();
    let mut page = REFERENCE.to_owned();
    write!(page, "\n## riverlock\n\n```\n{}\n```\n", command.render_help().to_string().trim_end())?;
    for (group, names) in GROUPS {
        writeln!(page, "\n## {group}")?;
        for command in names.iter().filter_map(|name| command.find_subcommand(name)) {
            section(&mut page, command, "riverlock")?;
        }
    }
    Ok(page)
}

fn section(page: &mut String, command: &Command, parent: &str) -> std::fmt::Result {
    let name = format!("{parent} {}", command.get_name());
    let mut shown = command.clone().term_width(WIDTH_MAX);
    let help = without_global_options(&shown.render_help().to_string());
    write!(page, "\n### {name}\n\n```\n{}\n```\n", help.trim_end())?;
    command
        .get_subcommands()
        .filter(|command| command.get_name() != "help")
        .try_for_each(|command| section(page, command, &name))
}

/// A help without the options that every command has.
fn without_global_options(help: &str) -> String {
    help.split("\n\n").filter(|block| !block.starts_with("Global options:")).collect::<Vec<_>>().join("\n\n")
}

/// The text of the page before the commands.
const REFERENCE: &str = "# Commands

This page is generated from the program (`make references`); a test fails while it differs.

- **Lists** are tables that fit the terminal; on a terminal that is too narrow, each entry is a block of lines. In a pipe they
  are one line per entry, with tabs between the values, without headings and without truncation; the count and the cursor of
  the next page then go to standard error. `RIVERLOCK_TERMINAL_WIDTH=120` prints tables of that width into a pipe, too.
- **`--json`** prints one JSON value, or one per line where results are printed as soon as they are known. A page of a list is
  `{\"items\": […], \"next\": …}`; `next` is the value of `--after` for the next page.
- **Times** are RFC 3339 in UTC with milliseconds, such as `2026-01-31T08:00:00.000Z`.
- **`--apply`** applies changes. Without it, commands that change data are dry runs. `--reason` and `--by` are recorded.
- **`--config`, `--verbose` and `--help`** are options of every command, and listed with the **exit codes** only
  [once](#riverlock).
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Args;

    /// Every command that does something, with the words that call it.
    fn leaves(command: &Command, path: &str, found: &mut Vec<(String, Command)>) {
        for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
            let path = format!("{path} {}", command.get_name());
            if !command.has_subcommands() || command.get_name() == "replay" {
                found.push((path.clone(), command.clone()));
            }
            leaves(command, &path, found);
        }
    }

    #[test]
    fn every_command_is_in_exactly_one_group() {
        let command = with_help::<Args>();
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let mut commands: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
        grouped.sort_unstable();
        commands.sort_unstable();
        assert_eq!(grouped, commands);
    }

    #[test]
    fn every_command_has_examples_that_are_valid() {
        let mut found = Vec::new();
        leaves(&with_help::<Args>(), "riverlock", &mut found);
        assert!(found.len() > 40, "only {} commands were found", found.len());
        for (path, command) in found {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples: Vec<&str> = help.lines().filter_map(|line| line.strip_prefix("  ")).collect();
            assert!(help.starts_with("Examples:\n") && !examples.is_empty(), "{path} has no examples");
            for example in examples {
                Args::parsed(words(example)).unwrap_or_else(|error| panic!("{example}: {error}"));
                let name = path.strip_prefix("riverlock ").unwrap();
                assert!(example.contains(name), "the example of {path} is one of another command: {example}");
            }
        }
    }

    /// The words of a command line, with single quotes.
    fn words(line: &str) -> Vec<String> {
        let parts = line.split('\'').enumerate();
        parts
            .flat_map(|(index, part)| match index % 2 {
                0 => part.split_whitespace().map(str::to_owned).collect(),
                _ => vec![part.to_owned()],
            })
            .collect()
    }

    #[test]
    fn the_first_line_of_every_help_is_short_and_begins_with_a_verb() {
        let mut found = Vec::new();
        leaves(&Args::command(), "riverlock", &mut found);
        for (path, command) in found {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(about.len() <= 80 && !about.ends_with('.'), "{path}: {about}");
            assert!(about.starts_with(|first: char| first.is_ascii_uppercase()), "{path}: {about}");
        }
    }

    #[test]
    fn the_overview_fits_a_terminal_of_100_columns() {
        let text = with_help::<Args>().term_width(WIDTH_MAX).render_help().to_string();
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH_MAX), "{text}");
        assert!(text.contains("\nRepair:\n  dead-letters     List, show,"), "{text}");
        assert!(text.contains("--config <CONFIG>") && text.contains("Exit codes:"), "{text}");
    }

    #[test]
    fn both_forms_of_help_print_the_details() {
        for flag in ["-h", "--help"] {
            let error = Args::parsed(["riverlock", "refold", flag]).unwrap_err().to_string();
            assert!(error.starts_with("Recompute orders from their stored events, after a bug fix\n"), "{error}");
            assert!(error.contains("Dry run unless --apply is given.") && error.contains("Examples:"), "{error}");
        }
    }
}
