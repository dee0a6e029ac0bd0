//! Webhooks and plans as text. The types mask their secrets.

use std::fmt::{self, Write as _};

use riverlock_digital_river::webhooks::{
    Registration, Spec, Transport,
    apply::StepResult,
    model::MASK,
    plan::{Action, PlanStep, WebhookPlan},
};
use riverlock_schemas::Mode;
use serde::Serialize;
use serde_json::{Value, json};

use crate::terminal::{
    table::{Column, Layout, Table},
    text::{fields, optional, optional_time, printable},
};

/// A registered webhook in a list.
#[derive(Serialize)]
pub(super) struct WebhookRow {
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

/// The columns of `webhooks list`.
const COLUMNS: [Column; 7] = [
    Column::text("MODE"),
    Column::text("ID"),
    Column::text("NAME"),
    Column::text("STATE"),
    Column::text("AUTHENTICATION"),
    Column::text("ADDRESS"),
    Column::text("TYPES"),
];

/// A comma-separated list of the event types.
fn types(spec: &Spec) -> String {
    spec.types.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn state(spec: &Spec) -> &'static str {
    if spec.enabled { "enabled" } else { "disabled" }
}

pub(super) fn list(text: &mut String, rows: &[WebhookRow]) {
    let mut table = Table::new(&COLUMNS);
    for WebhookRow { mode, name, webhook } in rows {
        table.row([
            mode.to_string(),
            webhook.id.clone(),
            optional(name.as_deref()),
            state(&webhook.spec).to_owned(),
            webhook.spec.transport.name().to_owned(),
            webhook.spec.address.clone(),
            types(&webhook.spec),
        ]);
    }
    text.push_str(&table.render(Layout::of_lists(), ""));
}

pub(super) fn one(text: &mut String, mode: Mode, webhook: &Registration) {
    let spec = &webhook.spec;
    text.push_str(&format!("webhook {} ({mode}): {}\n", printable(&webhook.id), state(spec).to_uppercase()));
    let mut lines = vec![
        ("address", printable(&spec.address)),
        ("types", types(spec)),
        ("API version", printable(&spec.api_version)),
        ("authentication", spec.transport.name().to_owned()),
        ("created", optional_time(webhook.created_time)),
        ("changed", optional_time(webhook.updated_time)),
    ];
    if let Transport::OAuth(oauth) = &spec.transport {
        let secret = |is_known: bool| if is_known { MASK } else { "(not returned)" }.to_owned();
        lines.extend([
            ("token endpoint", printable(&oauth.token_endpoint)),
            ("client id", printable(&oauth.client_id)),
            ("client secret", secret(oauth.client_secret.is_some())),
            ("user", optional(oauth.username.as_deref())),
            ("password", secret(oauth.password.is_some())),
            ("grant type", optional(oauth.grant_type.as_deref())),
        ]);
    }
    fields(text, "  ", &lines);
}

/// A plan as text: `+` marks a registration, `~` a change, a space an unchanged webhook.
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
            writeln!(text, "    note: {id} has the same address, so events are delivered twice; it is not changed")?;
        }
        for (id, address) in similar {
            writeln!(text, "    note: {id} sends the same types to {address}; set id = \"{id}\" to move it here")?;
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
        StepResult::CreatedUnanswered => "registered (the answer was lost, but the webhook is listed)",
        StepResult::Updated => "changed",
        StepResult::Left => "unchanged",
    }
}
