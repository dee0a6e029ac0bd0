//! `riverlock dead-letters`: list, show, redrive and discard records that could not be applied.

mod act;
pub mod args;
mod lookup;
mod print;

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;
use riverlock_ledger::postgres::bounded;
use riverlock_recovery::dead_letters::{self, LetterState};

use crate::{
    config::Config,
    exit::{self, UsageError},
    terminal::out::{self, Output, Page},
};

use self::{
    args::{DeadLettersCommand, LetterSelector, ListOptions, StateOption},
    lookup::{Database, filter},
    print::LetterReport,
};

pub(crate) async fn run(file: Option<&Path>, command: DeadLettersCommand) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let mut connection = config.postgres.connect().await.context("PostgreSQL does not take a connection")?;
    let limit = config.postgres.answer_limit();
    let database = Database { connection: &mut connection, limit };
    match command {
        DeadLettersCommand::List(options) => list(database, options).await,
        DeadLettersCommand::Show { letters, payload, output } => show(database, &letters, payload, output).await,
        DeadLettersCommand::Redrive(options) => {
            let action = act::Action::redrive(&config, options.force)?;
            act::run(database, action, options.action).await
        }
        DeadLettersCommand::Discard(options) => act::run(database, act::Action::Discard, options.action).await,
    }
}

async fn list(database: Database<'_>, options: ListOptions) -> anyhow::Result<ExitCode> {
    let states: &[LetterState] = match options.state {
        StateOption::Open => &[LetterState::Open],
        StateOption::Redriven => &[LetterState::Redriven],
        StateOption::Discarded => &[LetterState::Discarded],
        StateOption::All => &LetterState::ALL,
    };
    let (filter, after, limit) = (filter(options.filter), options.after.as_ref(), options.limit);
    if let Some(after) = after
        && bounded(database.limit, dead_letters::find(database.connection, Some(after), None)).await?.is_empty()
    {
        return Err(UsageError(format!("--after: there is no dead letter {after}")).into());
    }
    let letters = dead_letters::list(database.connection, states, &filter, after, limit + 1);
    let letters = bounded(database.limit, letters).await?;
    let page = Page::cut(letters, limit, |letter| letter.position().to_string());
    options.output.page(&page, "dead letter", &print::COLUMNS, print::values)?;
    Ok(ExitCode::SUCCESS)
}

async fn show(
    mut database: Database<'_>,
    letters: &[LetterSelector],
    payload: bool,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let (mut reports, mut is_missing) = (Vec::new(), false);
    for selector in letters {
        let found = database.find(selector).await?;
        if found.is_empty() {
            out::note(&format!("{selector}: no such dead letter"));
            is_missing = true;
        }
        for (place, letter) in found {
            let actions = bounded(database.limit, dead_letters::history(database.connection, &place)).await?;
            let body = bounded(database.limit, dead_letters::body(database.connection, &place)).await?;
            let (header_names, bytes) = body.map(|body| (body.header_names, body.payload)).unwrap_or_default();
            reports.push(LetterReport::new(letter, header_names, actions, payload.then_some(bytes)));
        }
    }
    output.whole(&reports, |text| {
        reports.iter().for_each(|report| report.write(text));
        Ok(())
    })?;
    Ok(exit::success_if(!is_missing))
}
