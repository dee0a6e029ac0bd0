//! Changes of single webhooks.

use std::{
    io::{BufRead as _, IsTerminal as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use riverlock_digital_river::webhooks::{
    self, Registration, Spec,
    apply::{self, StepResult},
    plan::{Action, WebhookPlan},
};

use super::{
    args::{ConfirmationOptions, WebhookSelector},
    print,
    session::Session,
};
use crate::{
    exit::{Problem, UsageError},
    terminal::out,
};

/// The pause before the list is read after a lost answer. Digital River does not document how soon it lists a new webhook.
pub(super) const READ_BACK_WAIT: Duration = Duration::from_secs(2);

pub(super) async fn create(session: &Session, name: &str) -> anyhow::Result<ExitCode> {
    let (mode, step) = session.step(name).await?;
    if let Some(id) = print::id(&step.action) {
        bail!(Problem(format!("webhook {name} is already registered as {id}; use `riverlock webhooks update {name}`")));
    }
    execute(session, WebhookPlan { mode, steps: vec![step], foreign: Vec::new() }).await
}

pub(super) async fn update(session: &Session, name: &str) -> anyhow::Result<ExitCode> {
    let (mode, step) = session.step(name).await?;
    if step.action == Action::Create {
        bail!(Problem(format!("webhook {name} is not registered; use `riverlock webhooks create {name}`")));
    }
    execute(session, WebhookPlan { mode, steps: vec![step], foreign: Vec::new() }).await
}

async fn execute(session: &Session, plan: WebhookPlan) -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    print::plan(&mut text, &plan)?;
    out::print(&text);
    let named: Vec<_> = session
        .config
        .webhooks
        .iter()
        .filter(|webhook| plan.steps.iter().any(|step| step.name == webhook.name))
        .cloned()
        .collect();
    let report =
        |step: &webhooks::plan::PlanStep, done: StepResult| out::line(&format!("{}: {}", step.name, print::done(done)));
    apply::apply(&session.client, &plan, &named, READ_BACK_WAIT, report).await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn enable(session: &Session, options: &WebhookSelector) -> anyhow::Result<ExitCode> {
    let (mode, registration) = session.find(&options.webhook, options.mode).await?;
    if registration.spec.enabled {
        out::line(&format!("webhook {} is already enabled", registration.id));
        return Ok(ExitCode::SUCCESS);
    }
    switch(session, mode, &registration, true).await?;
    out::line(&format!("webhook {} is enabled", registration.id));
    out::note(
        "Digital River may not deliver the events that were due while the webhook was disabled; `riverlock reconcile` finds \
         and fetches them",
    );
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn disable(session: &Session, options: &ConfirmationOptions) -> anyhow::Result<ExitCode> {
    let (mode, registration) = session.find(&options.target.webhook, options.target.mode).await?;
    if !registration.spec.enabled {
        out::line(&format!("webhook {} is already disabled", registration.id));
        return Ok(ExitCode::SUCCESS);
    }
    confirm(&registration, "Digital River will send no more events to this address", options.yes)?;
    switch(session, mode, &registration, false).await?;
    out::line(&format!("webhook {} is disabled", registration.id));
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn delete(session: &Session, options: &ConfirmationOptions) -> anyhow::Result<ExitCode> {
    let (mode, registration) = session.find(&options.target.webhook, options.target.mode).await?;
    confirm(&registration, "The registration and its signing secrets will be deleted permanently", options.yes)?;
    webhooks::delete(&session.client, mode, &registration.id).await?;
    out::line(&format!("webhook {} is deleted", registration.id));
    Ok(ExitCode::SUCCESS)
}

/// Changes only `enabled`. The request repeats all other fields, so the secrets must be known.
async fn switch(
    session: &Session,
    mode: riverlock_schemas::Mode,
    registration: &Registration,
    enabled: bool,
) -> anyhow::Result<()> {
    let mut spec = registration.spec.clone();
    if !spec.has_secrets() {
        let configured = session.config.webhooks.iter().map(|webhook| (webhook, webhook.spec()));
        let same = |other: &Spec| other.address == spec.address;
        let Some((_, known)) = configured.filter(|(webhook, _)| webhook.mode == mode).find(|(_, spec)| same(spec))
        else {
            bail!(UsageError(format!(
                "Digital River does not return the secrets of webhook {}, and a change has to send them; \
                 configure it under [[webhooks]] or use the dashboard",
                registration.id
            )));
        };
        spec.transport = known.transport;
    }
    spec.enabled = enabled;
    let changed = webhooks::update(&session.client, mode, &registration.id, &spec).await?;
    if changed.spec.enabled != enabled {
        bail!(Problem(format!(
            "Digital River accepted the change of webhook {} but reports enabled={}",
            registration.id, !enabled
        )));
    }
    Ok(())
}

/// Asks the operator to type the webhook's address. Without a terminal, only `--yes` confirms.
///
/// # Errors
/// When the change is not confirmed.
fn confirm(registration: &Registration, consequence: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    let address = &registration.spec.address;
    if !std::io::stdin().is_terminal() {
        bail!(UsageError("not confirmed: standard input is not a terminal; use --yes".to_owned()));
    }
    out::note(&format!("{consequence}: {address}\nType the address to confirm:"));
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if line.trim() != address {
        bail!(UsageError("not confirmed: the address differs; nothing was changed".to_owned()));
    }
    Ok(())
}
