//! `riverlock webhooks`: the registrations at Digital River.

mod act;
pub mod args;
mod check;
mod print;
mod probe;
mod session;
pub(crate) mod watch;

use std::{fmt::Write as _, path::Path, process::ExitCode};

use riverlock_digital_river::{
    Priority,
    webhooks::{
        self,
        apply::{self, StepResult},
        plan::{PlanStep, WebhookPlan},
    },
};
use serde::Serialize;
use serde_json::Value;

use self::{
    args::{ViewOptions, WebhooksCommand},
    session::Session,
};
use crate::{config::Config, exit};

pub(crate) async fn run(file: Option<&Path>, command: WebhooksCommand) -> anyhow::Result<ExitCode> {
    let session = Session::open(Config::load(file)?)?;
    match command {
        WebhooksCommand::List(view) => list(&session, view).await,
        WebhooksCommand::Show { webhook, view } => show(&session, &webhook, view).await,
        WebhooksCommand::Create(options) => act::create(&session, &options.name).await,
        WebhooksCommand::Update(options) => act::update(&session, &options.name).await,
        WebhooksCommand::Enable(options) => act::enable(&session, &options).await,
        WebhooksCommand::Disable(options) => act::disable(&session, &options).await,
        WebhooksCommand::Delete(options) => act::delete(&session, &options).await,
        WebhooksCommand::Check { probe, view } => check::run(&session, view, probe).await,
        WebhooksCommand::Apply { apply, view } => apply_plans(&session, view, apply).await,
    }
}

async fn list(session: &Session, view: ViewOptions) -> anyhow::Result<ExitCode> {
    let mut rows = Vec::new();
    for mode in session.modes(view.mode)? {
        let types = WebhookPlan::types(mode, &session.config.webhooks);
        let listed = webhooks::list(&session.client, mode, &types, Priority::Foreground).await?;
        let plan = WebhookPlan::new(mode, &session.config.webhooks, &listed.webhooks);
        for webhook in listed.webhooks {
            let name = plan.steps.iter().find(|step| print::id(&step.action) == Some(&webhook.id));
            rows.push(print::WebhookRow { mode, name: name.map(|step| step.name.clone()), webhook });
        }
    }
    view.output.whole(&rows, |text| {
        print::list(text, &rows);
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn show(session: &Session, webhook: &str, view: ViewOptions) -> anyhow::Result<ExitCode> {
    let (mode, registration) = session.find(webhook, view.mode).await?;
    view.output.whole(&registration, |text| {
        print::one(text, mode, &registration);
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The result of `apply`, or of its dry run.
#[derive(Serialize)]
struct ApplyReport {
    /// Whether the changes were applied.
    applied: bool,
    modes: Vec<Value>,
}

async fn apply_plans(session: &Session, view: ViewOptions, apply: bool) -> anyhow::Result<ExitCode> {
    let mut differs = false;
    let mut report = ApplyReport { applied: apply, modes: Vec::new() };
    for mode in session.modes(view.mode)? {
        let plan = session.plan(mode).await?;
        differs |= !plan.is_empty();
        let mut text = String::new();
        print::plan(&mut text, &plan)?;
        view.output.text(text.trim_end());
        report.modes.push(print::plan_json(&plan));
        if apply {
            let progress = |step: &PlanStep, done: StepResult| {
                if done != StepResult::Left {
                    view.output.text(&format!("{}: {}", step.name, print::done(done)));
                }
            };
            apply::apply(&session.client, &plan, &session.config.webhooks, act::READ_BACK_WAIT, progress).await?;
        }
    }
    let end = match (session.config.webhooks.is_empty(), apply, differs) {
        (true, _, _) => "no [[webhooks]] are configured",
        (false, true, _) => "all configured webhooks are registered",
        (false, false, true) => "nothing was changed; apply with `riverlock webhooks apply --apply`",
        (false, false, false) => "nothing to change",
    };
    view.output.whole(&report, |text| writeln!(text, "{end}"))?;
    Ok(exit::success_if(apply || !differs))
}
