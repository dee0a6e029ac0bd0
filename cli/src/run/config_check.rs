//! `riverlock config check`: is the configuration right, before a service is started with it?

use std::{fmt::Write as _, path::Path, process::ExitCode};

use crate::{config, exit, terminal::out::Output};

pub(crate) fn run(file: Option<&Path>, output: Output) -> anyhow::Result<ExitCode> {
    let found = config::check(file)?;
    output.whole(&found, |text| {
        found.iter().try_for_each(|(section, problem)| match problem {
            None => writeln!(text, "[{section}] is right"),
            Some(problem) => writeln!(text, "[{section}] {problem}"),
        })
    })?;
    Ok(exit::well_if(found.values().all(Option::is_none)))
}
