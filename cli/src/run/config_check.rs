//! `riverlock config check`: validates the configuration without starting a service.

use std::{path::Path, process::ExitCode};

use crate::{
    config, exit,
    terminal::{
        out::Output,
        table::{Column, Layout, Table},
    },
};

/// The columns of the text output.
const COLUMNS: [Column; 2] = [Column::text("SECTION"), Column::text("RESULT")];

pub(crate) fn run(file: Option<&Path>, output: Output) -> anyhow::Result<ExitCode> {
    let found = config::check(file)?;
    output.whole(&found, |text| {
        let mut table = Table::new(&COLUMNS);
        for (section, problem) in &found {
            table.row([format!("[{section}]"), problem.clone().unwrap_or_else(|| "valid".to_owned())]);
        }
        text.push_str(&table.render(Layout::of_lists(), ""));
        Ok(())
    })?;
    Ok(exit::success_if(found.values().all(Option::is_none)))
}
