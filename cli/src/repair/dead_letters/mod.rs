//! `riverlock dead-letters`: look at records that could not take effect, give them another try, or give them up.

mod act;
pub mod args;

use std::{fmt::Write as _, path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use riverlock_ledger::{Error, postgres::bounded};
use riverlock_recovery::dead_letters::{self, ActionView, Filter, LetterPosition, LetterState, LetterView};
use riverlock_runtime::{Clock as _, SystemClock};
use serde::Serialize;
use sqlx::PgConnection;

use crate::{
    config::Config,
    exit::{self, Usage},
    repair::dead_letters::args::{DeadLettersCommand, FilterOptions, ListOptions, Named, StateOption},
    terminal::out::{self, Output, Page},
};

/// A letter, and what was done about it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    #[serde(flatten)]
    letter: LetterView,
    header_names: Vec<String>,
    actions: Vec<ActionView>,
    /// The body, where it was asked for and is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    /// The body in hexadecimal digits, where it was asked for and is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_hex: Option<String>,
}

/// Where letters are looked at.
struct Desk<'a> {
    connection: &'a mut PgConnection,
    /// How long the answer to one statement is waited for.
    limit: Duration,
}

impl Desk<'_> {
    /// The letters that a name means.
    async fn find(&mut self, named: &Named) -> Result<Vec<(LetterPosition, LetterView)>, Error> {
        let (position, event) = match named {
            Named::Position(position) => (Some(position), None),
            Named::Event(id) => (None, Some(id.as_str())),
        };
        bounded(self.limit, dead_letters::find(self.connection, position, event)).await
    }
}

pub(crate) async fn run(file: Option<&Path>, command: DeadLettersCommand) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let mut connection = config.postgres.connect().await.context("PostgreSQL does not take a connection")?;
    let limit = config.postgres.answer_limit();
    let desk = Desk { connection: &mut connection, limit };
    match command {
        DeadLettersCommand::List(options) => list(desk, options).await,
        DeadLettersCommand::Show { letters, payload, output } => show(desk, &letters, payload, output).await,
        DeadLettersCommand::Redrive(options) => {
            let action = act::Action::redrive(&config, options.force)?;
            act::run(desk, action, options.act).await
        }
        DeadLettersCommand::Discard(options) => act::run(desk, act::Action::Discard, options.act).await,
    }
}

fn filter(options: FilterOptions) -> Filter {
    let now = SystemClock.now();
    Filter {
        reason: options.error,
        topic: options.topic,
        event_type: options.event_type,
        order_id: options.order,
        since: options.since.map(|moment| moment.at(now)),
        until: options.until.map(|moment| moment.at(now)),
    }
}

async fn list(desk: Desk<'_>, options: ListOptions) -> anyhow::Result<ExitCode> {
    let states: &[LetterState] = match options.state {
        StateOption::Open => &[LetterState::Open],
        StateOption::Redriven => &[LetterState::Redriven],
        StateOption::Discarded => &[LetterState::Discarded],
        StateOption::All => &LetterState::ALL,
    };
    let (filter, after, limit) = (filter(options.filter), options.after.as_ref(), options.limit);
    if let Some(after) = after
        && bounded(desk.limit, dead_letters::find(desk.connection, Some(after), None)).await?.is_empty()
    {
        return Err(Usage(format!("--after: there is no letter {after}")).into());
    }
    let letters = dead_letters::list(desk.connection, states, &filter, after, limit + 1);
    let letters = bounded(desk.limit, letters).await?;
    let page = Page::cut(letters, limit, |letter| letter.position().to_string());
    options.output.page(&page, "letters", |text, letter| writeln!(text, "{}", line(letter)))?;
    Ok(ExitCode::SUCCESS)
}

/// A letter in one line.
fn line(letter: &LetterView) -> String {
    format!(
        "{}  {}  {}  {}  order {}  {} after {}  {}: {}",
        letter.created_at,
        letter.position(),
        shown(&letter.event_id),
        or_dash(&letter.event_type),
        shown(letter.order_id.as_deref().unwrap_or("-")),
        letter.state,
        tries(letter.attempts),
        letter.reason,
        shown(&letter.detail),
    )
}

fn tries(attempts: i32) -> String {
    format!("{attempts} {}", if attempts == 1 { "try" } else { "tries" })
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { shown(text) }
}

/// A text from outside, without what could steer a terminal.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

async fn show(mut desk: Desk<'_>, letters: &[Named], payload: bool, output: Output) -> anyhow::Result<ExitCode> {
    let (mut all, mut missing) = (Vec::new(), false);
    for named in letters {
        let found = desk.find(named).await?;
        if found.is_empty() {
            out::note(&format!("{named}: there is no such letter"));
            missing = true;
        }
        for (place, letter) in found {
            let actions = bounded(desk.limit, dead_letters::history(desk.connection, &place)).await?;
            let body = bounded(desk.limit, dead_letters::body(desk.connection, &place)).await?;
            let (header_names, bytes) = body.map(|body| (body.header_names, body.payload)).unwrap_or_default();
            let (mut text, mut hex) = (None, None);
            if payload {
                match String::from_utf8(bytes) {
                    Ok(body) => text = Some(body),
                    Err(error) => hex = Some(hex_digits(error.as_bytes())),
                }
            }
            all.push(Shown { letter, header_names, actions, payload: text, payload_hex: hex });
        }
    }
    output.whole(&all, |text| all.iter().try_for_each(|shown| describe(text, shown)))?;
    Ok(exit::well_if(!missing))
}

fn hex_digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A letter on several lines.
fn describe(text: &mut String, letter: &Shown) -> std::fmt::Result {
    let Shown { letter, header_names, actions, payload, payload_hex } = letter;
    writeln!(text, "{}", letter.position())?;
    writeln!(text, "  event {}, type {}", shown(&letter.event_id), or_dash(&letter.event_type))?;
    let mode = letter.live_mode.map_or("unknown mode", |live| if live { "live" } else { "test" });
    writeln!(text, "  order {} ({mode})", shown(letter.order_id.as_deref().unwrap_or("-")))?;
    writeln!(text, "  {} after {}, the last one {}", letter.state, tries(letter.attempts), letter.attempted_at)?;
    writeln!(text, "  in the audit: {}", letter.outcome)?;
    writeln!(text, "  {}: {}", letter.reason, shown(&letter.detail))?;
    let published = letter.published_at.map_or_else(|| "not yet".to_owned(), |at| at.to_string());
    writeln!(text, "  died {}; published to the topic of dead letters: {published}", letter.created_at)?;
    writeln!(text, "  body of {} bytes, SHA-256 {}", letter.body_bytes, letter.body_sha256)?;
    writeln!(text, "  headers: {}", shown(&header_names.join(", ")))?;
    for action in actions {
        let reason = action.reason.as_deref().map(|reason| format!("({reason})")).unwrap_or_default();
        let detail = action.detail.as_deref().map(|detail| format!(": {}", shown(detail))).unwrap_or_default();
        writeln!(
            text,
            "  {} {} by {} ({}): {}{reason}{detail}",
            action.acted_at,
            action.action,
            shown(&action.acted_by),
            shown(&action.why),
            action.outcome,
        )?;
    }
    if let Some(body) = payload {
        // As it is: it was asked for, and may be piped into another program.
        writeln!(text, "{body}")?;
    }
    if let Some(digits) = payload_hex {
        writeln!(text, "{digits}")?;
    }
    Ok(())
}
