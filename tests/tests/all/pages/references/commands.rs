//! `docs/reference/cli.md`: the help of all commands.

use riverlock::{args::Args, help};

use super::check_file;

#[test]
fn the_page_has_the_help_of_every_command() {
    check_file("docs/reference/cli.md", &help::reference::<Args>().unwrap());
}
