//! How webhooks and plans are printed. Secrets are masked by the types themselves.

use std::fmt::{self, Write as _};

use riverlock_digital_river::webhooks::{
    Registration, Transport,
    apply::StepResult,
    plan::{Action, PlanStep, WebhookPlan},
};
use riverlock_schemas::Mode;
use serde::Serialize;
use serde_json::{Value, json};

/// A registered webhook in a list.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) mode: Mode,
    /// Its name in the configuration.
    pub(super) name: Option<String>,
    pub(super) webhook: Registration,
}

/// Digital River's id of a step's webhook, if it is registered.
pub(super) fn id(action: &Action) -> Option<&String> {
    match action {
        Action::Create => None,
        Action::Update { id, .. } | Action::Leave { id } => Some(id),
    }
}

pub(super) fn table(text: &mut String, rows: &[Row]) -> fmt::Result {
    for Row { mode, name, webhook } in rows {
        let state = if webhook.spec.enabled { "enabled" } else { "disabled" };
        let types: Vec<&str> = webhook.spec.types.iter().map(String::as_str).collect();
        writeln!(
            text,
            "{mode}  {id}  {state:8}  {transport:18}  {name}\n      {address}\n      {types}",
            id = webhook.id,
            transport = webhook.spec.transport.name(),
            name = name.as_deref().unwrap_or("(not configured here)"),
            address = webhook.spec.address,
            types = types.join(", "),
        )?;
    }
    writeln!(text, "{} webhooks", rows.len())
}

pub(super) fn one(text: &mut String, mode: Mode, webhook: &Registration) -> fmt::Result {
    let spec = &webhook.spec;
    let types: Vec<&str> = spec.types.iter().map(String::as_str).collect();
    let time = |time: Option<chrono::DateTime<chrono::Utc>>| {
        time.map_or_else(|| "unknown".to_owned(), |time| time.to_rfc3339())
    };
    for (name, value) in [
        ("id", webhook.id.clone()),
        ("mode", mode.to_string()),
        ("address", spec.address.clone()),
        ("enabled", spec.enabled.to_string()),
        ("types", types.join(", ")),
        ("API version", spec.api_version.clone()),
        ("transport", spec.transport.name().to_owned()),
        ("created", time(webhook.created_time)),
        ("changed", time(webhook.updated_time)),
    ] {
        writeln!(text, "{name:<15} {value}")?;
    }
    if let Transport::OAuth(oauth) = &spec.transport {
        let mask = riverlock_digital_river::webhooks::model::MASK;
        for (name, value) in [
            ("token endpoint", oauth.token_endpoint.as_str()),
            ("client id", &oauth.client_id),
            ("client secret", oauth.client_secret.as_ref().map_or("(not returned)", |_| mask)),
            ("user", oauth.username.as_deref().unwrap_or("")),
            ("password", oauth.password.as_ref().map_or("(not returned)", |_| mask)),
            ("grant type", oauth.grant_type.as_deref().unwrap_or("")),
        ] {
            writeln!(text, "{name:<15} {value}")?;
        }
    }
    Ok(())
}

/// A plan as text: `+` is registered, `~` is changed, nothing stands before what is left.
pub(super) fn plan(text: &mut String, plan: &WebhookPlan) -> fmt::Result {
    let (mut create, mut change, mut leave) = (0, 0, 0);
    for step in &plan.steps {
        let PlanStep { name, spec, action, also, similar } = step;
        let types: Vec<&str> = spec.types.iter().map(String::as_str).collect();
        match action {
            Action::Create => {
                create += 1;
                writeln!(text, "+ {name} ({})  register {}", plan.mode, spec.address)?;
                writeln!(text, "    types: {}", types.join(", "))?;
                writeln!(text, "    transport: {}", spec.transport.name())?;
            }
            Action::Update { id, differences } => {
                change += 1;
                writeln!(text, "~ {name} ({})  change {id}", plan.mode)?;
                for difference in differences {
                    writeln!(text, "    {}: {} -> {}", difference.field, difference.from, difference.to)?;
                }
            }
            Action::Leave { id } => {
                leave += 1;
                writeln!(text, "  {name} ({})  as configured: {id}", plan.mode)?;
            }
        }
        for id in also {
            writeln!(text, "    note: {id} has the same address, so that events come twice; it is not touched")?;
        }
        for (id, address) in similar {
            writeln!(text, "    note: {id} sends the same types to {address}; id = \"{id}\" would move it here")?;
        }
    }
    for webhook in &plan.foreign {
        writeln!(text, "  not configured here ({})  {} {}", plan.mode, webhook.id, webhook.spec.address)?;
    }
    writeln!(
        text,
        "{} data: {create} to register, {change} to change, {leave} as configured, {} not configured here",
        plan.mode,
        plan.foreign.len()
    )
}

pub(super) fn plan_json(plan: &WebhookPlan) -> Value {
    let steps = plan.steps.iter().map(|step| {
        let (action, differences) = match &step.action {
            Action::Create => ("create", Vec::new()),
            Action::Update { differences, .. } => ("update", differences.clone()),
            Action::Leave { .. } => ("leave", Vec::new()),
        };
        json!({
            "name": step.name, "address": step.spec.address, "types": step.spec.types, "action": action,
            "id": id(&step.action), "differences": differences, "sameAddress": step.also,
            "similar": step.similar.iter().map(|(id, address)| json!({ "id": id, "address": address })).collect::<Vec<_>>(),
        })
    });
    json!({ "mode": plan.mode, "steps": steps.collect::<Vec<_>>(), "foreign": plan.foreign })
}

pub(super) fn done(done: StepResult) -> &'static str {
    match done {
        StepResult::Created => "registered",
        StepResult::CreatedUnanswered => "registered (the answer was lost; found in the list)",
        StepResult::Updated => "changed",
        StepResult::Left => "left as it is",
    }
}
