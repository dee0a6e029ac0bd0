//! The configuration and the client of one `riverlock webhooks` command.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use riverlock_digital_river::{
    Client,
    webhooks::{
        self, Registration, WebhookConfig, apply,
        plan::{Action, PlanStep, WebhookPlan},
    },
};
use riverlock_runtime::{ConfigError, SystemClock};
use riverlock_schemas::Mode;

use crate::{
    config::Config,
    exit::{Problem, UsageError},
    options::mode::ModeOption,
    terminal::out,
};

/// The configuration and the client of a command.
pub(super) struct Session {
    pub(super) config: Config,
    pub(super) client: Client,
}

impl Session {
    pub(super) fn open(config: Config) -> anyhow::Result<Self> {
        let digital_river = config.digital_river();
        digital_river.validate()?;
        config.validate_webhooks()?;
        // A webhook whose configuration prevents ingest from starting must not be registered.
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

    /// The modes of a command.
    pub(super) fn modes(&self, mode: Option<ModeOption>) -> anyhow::Result<Vec<Mode>> {
        let wanted = mode.map(Mode::from);
        let modes: Vec<Mode> = self.client.modes().filter(|mode| wanted.is_none_or(|wanted| wanted == *mode)).collect();
        if let (Some(wanted), true) = (wanted, modes.is_empty()) {
            bail!(UsageError(format!(
                "no API key for {wanted} data is configured; set digital_river.{wanted}.api_key"
            )));
        }
        for webhook in &self.config.webhooks {
            if wanted.is_none() && !modes.contains(&webhook.mode) {
                let WebhookConfig { name, mode, .. } = webhook;
                bail!(UsageError(format!("webhook {name} needs an API key for {mode} data, and none is configured")));
            }
        }
        Ok(modes)
    }

    pub(super) async fn plan(&self, mode: Mode) -> anyhow::Result<WebhookPlan> {
        let (plan, truncated) = apply::plan(&self.client, mode, &self.config.webhooks).await?;
        if truncated {
            out::note(&format!(
                "Digital River lists at most {} webhooks; further webhooks that are not configured here are not shown",
                webhooks::LIST_MAX
            ));
            // It may be registered and not listed; registering it again would deliver every event twice.
            if let Some(step) = plan.steps.iter().find(|step| matches!(step.action, Action::Create)) {
                bail!(Problem(format!(
                    "webhook {} is not among the listed ones, and the list is incomplete: set its `id` in [[webhooks]]",
                    step.name
                )));
            }
        }
        Ok(plan)
    }

    pub(super) fn configured(&self, name: &str) -> anyhow::Result<&WebhookConfig> {
        let found = self.config.webhooks.iter().find(|webhook| webhook.name == name);
        Ok(found.ok_or_else(|| UsageError(format!("no [[webhooks]] entry is named {name}")))?)
    }

    /// The step of a configured webhook in the plan.
    pub(super) async fn step(&self, name: &str) -> anyhow::Result<(Mode, PlanStep)> {
        let mode = self.configured(name)?.mode;
        let plan = self.plan(mode).await?;
        let step = plan.steps.into_iter().find(|step| step.name == name);
        Ok((mode, step.context("the plan has a step for each webhook")?))
    }

    /// Finds a registration by its name in the configuration or by its id.
    pub(super) async fn find(&self, webhook: &str, mode: Option<ModeOption>) -> anyhow::Result<(Mode, Registration)> {
        let mut id = webhook.to_owned();
        let mut modes = self.modes(mode)?;
        if self.configured(webhook).is_ok() {
            let (mode, step) = self.step(webhook).await?;
            match step.action {
                Action::Create => bail!(Problem(format!(
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
        bail!(Problem(format!("no webhook {webhook} is registered")))
    }
}
