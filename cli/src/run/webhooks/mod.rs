//! `riverlock webhooks`: the registrations at Digital River.

mod act;
pub mod args;
mod check;
mod print;
mod probe;
pub(crate) mod watch;

use std::{fmt::Write as _, path::Path, process::ExitCode, sync::Arc};

use anyhow::{Context as _, bail};
use riverlock_digital_river::{
    Client, Priority,
    webhooks::{
        self, Registration, WebhookConfig,
        apply::{self, StepResult},
        plan::{Action, PlanStep, WebhookPlan},
    },
};
use riverlock_runtime::{ConfigError, SystemClock};
use riverlock_schemas::Mode;
use serde::Serialize;
use serde_json::Value;

use crate::{
    config::Config,
    exit::{self, Usage, Wrong},
    options::mode::ModeOption,
    run::webhooks::args::{LookOptions, WebhooksCommand},
    terminal::out,
};

/// What a command needs.
struct Session {
    config: Config,
    client: Client,
}

pub(crate) async fn run(file: Option<&Path>, command: WebhooksCommand) -> anyhow::Result<ExitCode> {
    let session = Session::open(Config::load(file)?)?;
    match command {
        WebhooksCommand::List(look) => list(&session, look).await,
        WebhooksCommand::Show { webhook, look } => show(&session, &webhook, look).await,
        WebhooksCommand::Create(options) => act::create(&session, &options.name).await,
        WebhooksCommand::Update(options) => act::update(&session, &options.name).await,
        WebhooksCommand::Enable(options) => act::enable(&session, &options).await,
        WebhooksCommand::Disable(options) => act::disable(&session, &options).await,
        WebhooksCommand::Delete(options) => act::delete(&session, &options).await,
        WebhooksCommand::Check { probe, look } => check::run(&session, look, probe).await,
        WebhooksCommand::Apply { apply, look } => apply_plans(&session, look, apply).await,
    }
}

impl Session {
    fn open(config: Config) -> anyhow::Result<Self> {
        let digital_river = config.digital_river();
        digital_river.validate()?;
        config.validate_webhooks()?;
        // A webhook that ingest would refuse to start with must not be registered.
        if !config.webhooks.is_empty() {
            config.ingest.validate()?;
        }
        if digital_river.accounts().next().is_none() {
            let reason = "no API key is configured; set test.api_key, live.api_key or both";
            bail!(ConfigError::refused("digital_river", reason));
        }
        let client = Client::new(&digital_river, Arc::new(SystemClock))?;
        Ok(Self { config, client })
    }

    /// The modes that a command looks at.
    fn modes(&self, mode: Option<ModeOption>) -> anyhow::Result<Vec<Mode>> {
        let wanted = mode.map(Mode::from);
        let modes: Vec<Mode> = self.client.modes().filter(|mode| wanted.is_none_or(|wanted| wanted == *mode)).collect();
        if let (Some(wanted), true) = (wanted, modes.is_empty()) {
            bail!(Usage(format!("no API key for {wanted} data is configured; set digital_river.{wanted}.api_key")));
        }
        for webhook in &self.config.webhooks {
            if wanted.is_none() && !modes.contains(&webhook.mode) {
                let WebhookConfig { name, mode, .. } = webhook;
                bail!(Usage(format!("webhook {name} needs an API key for {mode} data, and none is configured")));
            }
        }
        Ok(modes)
    }

    async fn plan(&self, mode: Mode) -> anyhow::Result<WebhookPlan> {
        let (plan, truncated) = apply::plan(&self.client, mode, &self.config.webhooks).await?;
        if truncated {
            out::note(&format!(
                "Digital River lists at most {} webhooks at once; further ones that are not configured here are not shown",
                webhooks::LIST_MAX
            ));
        }
        Ok(plan)
    }

    fn configured(&self, name: &str) -> anyhow::Result<&WebhookConfig> {
        let found = self.config.webhooks.iter().find(|webhook| webhook.name == name);
        Ok(found.ok_or_else(|| Usage(format!("no [[webhooks]] entry is named {name}")))?)
    }

    /// The plan's step of a configured webhook.
    async fn step(&self, name: &str) -> anyhow::Result<(Mode, PlanStep)> {
        let mode = self.configured(name)?.mode;
        let plan = self.plan(mode).await?;
        let step = plan.steps.into_iter().find(|step| step.name == name);
        Ok((mode, step.context("the plan has a step for each webhook")?))
    }

    /// Finds a registration by its name in the configuration or by its id.
    async fn find(&self, webhook: &str, mode: Option<ModeOption>) -> anyhow::Result<(Mode, Registration)> {
        let mut id = webhook.to_owned();
        let mut modes = self.modes(mode)?;
        if self.configured(webhook).is_ok() {
            let (mode, step) = self.step(webhook).await?;
            match step.action {
                Action::Create => bail!(Wrong(format!(
                    "webhook {webhook} is not registered; `riverlock webhooks apply` registers it"
                ))),
                Action::Update { id: known, .. } | Action::Leave { id: known } => (id, modes) = (known, vec![mode]),
            }
        }
        for mode in modes {
            match webhooks::get(&self.client, mode, &id).await {
                Ok(registration) => return Ok((mode, registration)),
                Err(error) if error.status() == Some(404) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bail!(Wrong(format!("no webhook {webhook} is registered")))
    }
}

async fn list(session: &Session, look: LookOptions) -> anyhow::Result<ExitCode> {
    let mut rows = Vec::new();
    for mode in session.modes(look.mode)? {
        let types = WebhookPlan::types(mode, &session.config.webhooks);
        let listed = webhooks::list(&session.client, mode, &types, Priority::Foreground).await?;
        let plan = WebhookPlan::new(mode, &session.config.webhooks, &listed.webhooks);
        for webhook in listed.webhooks {
            let name = plan.steps.iter().find(|step| print::id(&step.action) == Some(&webhook.id));
            rows.push(print::Row { mode, name: name.map(|step| step.name.clone()), webhook });
        }
    }
    look.output.whole(&rows, |text| print::table(text, &rows))?;
    Ok(ExitCode::SUCCESS)
}

async fn show(session: &Session, webhook: &str, look: LookOptions) -> anyhow::Result<ExitCode> {
    let (mode, registration) = session.find(webhook, look.mode).await?;
    look.output.whole(&registration, |text| print::one(text, mode, &registration))?;
    Ok(ExitCode::SUCCESS)
}

/// What `apply --json` prints.
#[derive(Serialize)]
struct Applied {
    /// Whether the plans were carried out.
    applied: bool,
    modes: Vec<Value>,
}

async fn apply_plans(session: &Session, look: LookOptions, apply: bool) -> anyhow::Result<ExitCode> {
    let mut differs = false;
    let mut applied = Applied { applied: apply, modes: Vec::new() };
    for mode in session.modes(look.mode)? {
        let plan = session.plan(mode).await?;
        differs |= !plan.is_empty();
        let mut text = String::new();
        print::plan(&mut text, &plan)?;
        look.output.people(text.trim_end());
        applied.modes.push(print::plan_json(&plan));
        if apply {
            let report = |step: &PlanStep, done: StepResult| {
                if done != StepResult::Left {
                    look.output.people(&format!("{}: {}", step.name, print::done(done)));
                }
            };
            apply::apply(&session.client, &plan, &session.config.webhooks, act::READ_BACK_WAIT, report).await?;
        }
    }
    let end = match (session.config.webhooks.is_empty(), apply, differs) {
        (true, _, _) => "no [[webhooks]] are configured",
        (false, true, _) => "everything configured is registered",
        (false, false, true) => "nothing was changed; `riverlock webhooks apply --apply` carries out this plan",
        (false, false, false) => "nothing has to be changed",
    };
    look.output.whole(&applied, |text| writeln!(text, "{end}"))?;
    Ok(exit::well_if(apply || !differs))
}
