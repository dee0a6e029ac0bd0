//! `riverlock webhooks check`: registrations compared with the configuration and with what ingest expects.

use std::{
    fmt::{self, Write as _},
    process::ExitCode,
};

use riverlock_digital_river::webhooks::{
    WebhookConfig,
    plan::{Action, Difference, PlanStep},
};
use riverlock_ingest::config::{EndpointConfig, TOKEN_PATHS};
use riverlock_schemas::Mode;
use serde::Serialize;

use super::{args::ViewOptions, probe, session::Session};
use crate::exit;

/// The result of all checks.
#[derive(Serialize)]
struct CheckReport {
    /// Whether no webhook has a problem.
    ok: bool,
    webhooks: Vec<WebhookFinding>,
}

/// The result for one configured webhook.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WebhookFinding {
    name: String,
    mode: Mode,
    address: String,
    /// `enabled`, `disabled`, `missing` or `differs`.
    state: &'static str,
    /// Digital River's id.
    id: Option<String>,
    /// Fields that differ from the configuration.
    differences: Vec<Difference>,
    /// Other problems.
    problems: Vec<String>,
    /// The result of the probe.
    probe: Option<probe::ProbeResult>,
}

impl WebhookFinding {
    fn is_ok(&self) -> bool {
        let probed = self.probe.as_ref().is_none_or(probe::ProbeResult::is_ok);
        self.differences.is_empty() && self.problems.is_empty() && self.state != "missing" && probed
    }
}

pub(super) async fn run(session: &Session, view: ViewOptions, with_probe: bool) -> anyhow::Result<ExitCode> {
    let mut findings = Vec::new();
    for mode in session.modes(view.mode)? {
        for step in session.plan(mode).await?.steps {
            let webhook = session.configured(&step.name)?;
            let mut finding = compare(session, webhook, step);
            if with_probe {
                finding.probe = Some(probe::send(session, webhook).await);
            }
            findings.push(finding);
        }
    }
    let report = CheckReport { ok: findings.iter().all(WebhookFinding::is_ok), webhooks: findings };
    view.output.whole(&report, |text| write(text, &report.webhooks))?;
    Ok(exit::success_if(report.ok))
}

fn compare(session: &Session, webhook: &WebhookConfig, step: PlanStep) -> WebhookFinding {
    let mut problems = problems(webhook, session.endpoint(webhook));
    problems.extend(step.also.iter().map(|id| format!("{id} has the same address: events are delivered twice")));
    problems.extend(step.similar.iter().map(|(id, address)| format!("{id} sends the same types to {address}")));
    let state = step.state();
    let (id, differences) = match step.action {
        Action::Create => (None, Vec::new()),
        Action::Update { id, differences } => (Some(id), differences),
        Action::Leave { id } => (Some(id), Vec::new()),
    };
    WebhookFinding {
        name: webhook.name.clone(),
        mode: webhook.mode,
        address: webhook.address.to_string(),
        state: state.as_str(),
        id,
        differences,
        problems,
        probe: None,
    }
}

impl Session {
    fn endpoint(&self, webhook: &WebhookConfig) -> Option<&EndpointConfig> {
        self.config.ingest.endpoints.iter().find(|endpoint| endpoint.name == webhook.endpoint)
    }
}

/// Settings of a webhook that do not match the endpoint that receives its deliveries.
fn problems(webhook: &WebhookConfig, endpoint: Option<&EndpointConfig>) -> Vec<String> {
    let Some(endpoint) = endpoint else {
        return vec![format!("no [[ingest.endpoints]] entry is named {}", webhook.endpoint)];
    };
    let mut problems = Vec::new();
    if !endpoint.mode.expects(Some(webhook.mode)) {
        problems.push(format!("endpoint {} does not expect {} data", endpoint.name, webhook.mode));
    }
    // A proxy may add a prefix, so only the end of the path is compared.
    let path = |path: &str| path.trim_end_matches('/').to_owned();
    if !path(webhook.address.path()).ends_with(&path(&endpoint.path)) {
        problems
            .push(format!("the address does not end with the path of endpoint {}: {}", endpoint.name, endpoint.path));
    }
    if endpoint.basic.is_some() != webhook.basic.is_some() {
        problems
            .push(format!("either the webhook or endpoint {} has basic authentication, but not both", endpoint.name));
    }
    match &webhook.oauth {
        None if !endpoint.oauth.is_empty() => {
            problems.push(format!("endpoint {} requires a token, but the webhook has no oauth", endpoint.name));
        }
        Some(_) if endpoint.oauth.is_empty() => {
            problems.push(format!("the webhook has oauth, but endpoint {} has no clients", endpoint.name));
        }
        Some(oauth) => {
            if endpoint.oauth.iter().all(|client| client.client_id != oauth.client_id) {
                problems.push(format!("endpoint {} has no client {}", endpoint.name, oauth.client_id));
            }
            if !TOKEN_PATHS.iter().any(|token_path| oauth.token_endpoint.path().ends_with(token_path)) {
                problems.push(format!("the token endpoint is not at {}", TOKEN_PATHS.join(" or ")));
            }
        }
        None => {}
    }
    problems
}

fn write(text: &mut String, findings: &[WebhookFinding]) -> fmt::Result {
    for finding in findings {
        let mark = if finding.is_ok() { "ok     " } else { "PROBLEM" };
        writeln!(text, "{mark}  {} ({})  {}  {}", finding.name, finding.mode, finding.state, finding.address)?;
        for difference in &finding.differences {
            let Difference { field, from, to } = difference;
            writeln!(text, "         {field}: registered {from}, configured {to}")?;
        }
        for problem in &finding.problems {
            writeln!(text, "         {problem}")?;
        }
        if let Some(outcome) = &finding.probe {
            writeln!(text, "         probe: {outcome}")?;
        }
    }
    let wrong = findings.iter().filter(|finding| !finding.is_ok()).count();
    writeln!(text, "{} webhooks, {wrong} with problems", findings.len())
}
