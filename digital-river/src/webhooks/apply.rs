//! Execution of a plan, step by step.
//!
//! It can be repeated after any failure, because a plan is derived from Digital River's current registrations. A creation
//! whose answer is lost is never repeated blindly: the list shows whether it was executed.

use std::time::Duration;

use riverlock_schemas::Mode;

use super::{
    config::WebhookConfig,
    create, get, list,
    model::Registration,
    plan::{Action, PlanStep, WebhookPlan},
    update,
};
use crate::{
    client::{Client, Priority},
    failure::Error,
};

/// Most attempts at a creation whose answer is lost; the list is read back between them.
const CREATE_ATTEMPTS: u32 = 3;

/// Result of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepResult {
    /// The webhook was registered.
    Created,
    /// The answer to the registration was lost; the webhook was found in the list afterwards.
    CreatedUnanswered,
    /// The registration was changed.
    Updated,
    /// No change was needed.
    Left,
}

/// Why a plan was not executed completely. Completed steps are not undone.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApplyError {
    /// A request failed.
    #[error("webhook {name}: {error}")]
    Request {
        /// The webhook's name in the configuration.
        name: String,
        /// The failure.
        error: Box<Error>,
    },
    /// The list could not be read.
    #[error("{0}")]
    List(Box<Error>),
    /// Digital River accepted a change, but returns a different value.
    #[error("webhook {name} is not as configured although Digital River accepted the change: {field} is `{found}`")]
    NotApplied {
        /// The webhook's name in the configuration.
        name: String,
        /// The field that differs, or `address` for a webhook that is not listed.
        field: &'static str,
        /// The returned value.
        found: String,
    },
}

/// Creates the plan for a mode from Digital River's current registrations.
///
/// # Errors
/// When the list cannot be read.
pub async fn plan(client: &Client, mode: Mode, configured: &[WebhookConfig]) -> Result<(WebhookPlan, bool), Error> {
    plan_for(client, mode, configured, Priority::Foreground).await
}

/// Like [`plan`], with a priority. The second value is whether Digital River's list may be incomplete.
///
/// # Errors
/// When the list cannot be read.
pub async fn plan_for(
    client: &Client,
    mode: Mode,
    configured: &[WebhookConfig],
    priority: Priority,
) -> Result<(WebhookPlan, bool), Error> {
    let mut listed = list(client, mode, &WebhookPlan::types(mode, configured), priority).await?;
    if listed.truncated {
        let of_mode = configured.iter().filter(|webhook| webhook.mode == mode);
        for id in of_mode.filter_map(|webhook| webhook.id.as_deref()) {
            if listed.webhooks.iter().any(|known| known.id == id) {
                continue;
            }
            match get(client, mode, id).await {
                Ok(found) => listed.webhooks.push(found),
                Err(error) if error.status() == Some(404) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok((WebhookPlan::new(mode, configured, &listed.webhooks), listed.truncated))
}

/// Executes a plan, reports each step through `done`, and compares the result with the configuration. `read_back_wait` is
/// the pause before the list is read after a lost answer.
///
/// # Errors
/// When a request fails permanently, or the result differs from the configuration.
pub async fn apply(
    client: &Client,
    plan: &WebhookPlan,
    configured: &[WebhookConfig],
    read_back_wait: Duration,
    mut done: impl FnMut(&PlanStep, StepResult),
) -> Result<(), ApplyError> {
    for step in &plan.steps {
        let request = |error| ApplyError::Request { name: step.name.clone(), error: Box::new(error) };
        let result = match &step.action {
            Action::Leave { .. } => StepResult::Left,
            Action::Update { id, .. } => {
                update(client, plan.mode, id, &step.spec).await.map_err(request)?;
                StepResult::Updated
            }
            Action::Create => create_once(client, plan.mode, step, read_back_wait).await.map_err(request)?,
        };
        done(step, result);
    }
    if plan.is_empty() {
        return Ok(());
    }
    let (after, _) =
        self::plan(client, plan.mode, configured).await.map_err(|error| ApplyError::List(Box::new(error)))?;
    for step in &after.steps {
        let (field, found) = match &step.action {
            Action::Leave { .. } => continue,
            Action::Create => ("address", "not listed".to_owned()),
            Action::Update { differences, .. } => match differences.first() {
                Some(difference) => (difference.field, difference.from.clone()),
                None => continue,
            },
        };
        return Err(ApplyError::NotApplied { name: step.name.clone(), field, found });
    }
    Ok(())
}

/// Registers a webhook exactly once: after a lost answer, the list shows whether it is registered.
async fn create_once(
    client: &Client,
    mode: Mode,
    step: &PlanStep,
    read_back_wait: Duration,
) -> Result<StepResult, Error> {
    let mut attempt = 1;
    loop {
        let error = match create(client, mode, &step.spec).await {
            Ok(_) => return Ok(StepResult::Created),
            Err(error) => error,
        };
        // A conflict may be caused by an earlier attempt of this process, or by a concurrent registration.
        if !error.is_ambiguous() && error.status() != Some(409) {
            return Err(error);
        }
        tracing::warn!("{error}; reading back whether webhook {} is registered", step.name);
        tokio::time::sleep(read_back_wait).await;
        let types = step.spec.types.iter().map(String::as_str).collect();
        let listed = list(client, mode, &types, Priority::Foreground).await?;
        if let Some(found) = find(&listed.webhooks, step) {
            if found.spec != step.spec && found.spec.has_secrets() {
                update(client, mode, &found.id, &step.spec).await?;
            }
            return Ok(StepResult::CreatedUnanswered);
        }
        attempt += 1;
        if attempt > CREATE_ATTEMPTS || error.status() == Some(409) {
            return Err(error);
        }
    }
}

fn find<'a>(webhooks: &'a [Registration], step: &PlanStep) -> Option<&'a Registration> {
    let normal = |address: &str| url::Url::parse(address).ok();
    webhooks.iter().find(|other| normal(&other.spec.address) == normal(&step.spec.address))
}
