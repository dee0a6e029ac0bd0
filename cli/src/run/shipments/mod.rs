//! `riverlock shipments`: what is shipped or cancelled, and whether Digital River has it.

pub mod args;

use std::{
    fmt::{self, Write as _},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, bail};
use riverlock_digital_river::Client;
use riverlock_ledger::postgres::bounded;
use riverlock_runtime::{Clock as _, Context, SystemClock};
use riverlock_shipments::{
    AddError, NewReport, Source, StoredReport, add,
    settle::{self, Decision},
    view::{self, LineView, ReportView, RequestView},
    worker,
};
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    config::Config,
    exit::{self, Wrong},
    run::shipments::args::{AddOptions, DecisionOptions, SettleOptions, ShipmentsCommand, StateArg},
    terminal::out::{Output, Page},
};

/// What `show --json` prints.
#[derive(Serialize)]
struct Shown {
    report: ReportView,
    lines: Vec<LineView>,
    requests: Vec<RequestView>,
}

/// What `retry --json` and `settle --json` print.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Decided {
    /// Whether it was done, or would be.
    applied: bool,
    report_id: Uuid,
    /// The state that the report gets.
    state: &'static str,
}

pub(crate) async fn run(file: Option<&Path>, command: ShipmentsCommand) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let mut connection = config.postgres.connect().await.context("PostgreSQL does not take a connection")?;
    bounded(config.postgres.answer_limit(), execute(&mut connection, command)).await
}

async fn execute(connection: &mut PgConnection, command: ShipmentsCommand) -> anyhow::Result<ExitCode> {
    match command {
        ShipmentsCommand::Add(options) => store(connection, options).await,
        ShipmentsCommand::List { order, state, limit, after, output } => {
            let state = state.map(StateArg::as_str);
            let reports = view::list(connection, order.as_deref(), state, after, limit + 1).await?;
            let page = Page::cut(reports, limit, |report| report.report_id.to_string());
            output.page(&page, "shipments", write_row)?;
            Ok(ExitCode::SUCCESS)
        }
        ShipmentsCommand::Show { report_id, output } => show(connection, report_id, output).await,
        ShipmentsCommand::Retry { report_id, decision } => {
            decide(connection, report_id, &Decision::SendAgain, decision).await
        }
        ShipmentsCommand::Settle(SettleOptions { report_id, reported_as, withdraw, decision: options, .. }) => {
            let decision = match reported_as {
                Some(fulfillment_id) => Decision::Reported { fulfillment_id },
                None if withdraw => Decision::Withdrawn,
                None => Decision::SendAgain,
            };
            decide(connection, report_id, &decision, options).await
        }
    }
}

async fn store(connection: &mut PgConnection, options: AddOptions) -> anyhow::Result<ExitCode> {
    let new = NewReport {
        lines: options.lines(),
        order_id: options.order_id,
        mode: options.mode.into(),
        idempotency_key: options.key,
        tracking_company: options.tracking_company,
        tracking_number: options.tracking_number,
        tracking_url: options.tracking_url,
        source: Source::Cli,
        created_by: options.by.name()?,
    };
    let (document, text, code) = match add::add(connection, &new, SystemClock.now()).await {
        Ok(StoredReport { report_id, repeated }) => {
            let text = match repeated {
                true => format!("shipment {report_id} was stored before with this key"),
                false => format!("shipment {report_id} is stored; the processor reports it to Digital River"),
            };
            (json!({ "reportId": report_id, "repeated": repeated }), text, exit::WELL)
        }
        Err(AddError::Sql(error)) => return Err(error.into()),
        Err(error) => {
            let (name, code) = match &error {
                AddError::Refused(refusal) => (refusal.code(), exit::WRONG),
                AddError::KeyReused(_) => ("idempotency_key_reused", exit::WRONG),
                _ => ("invalid_parameter", exit::USAGE),
            };
            (json!({ "code": name, "message": error.to_string() }), format!("not stored [{name}]: {error}"), code)
        }
    };
    options.output.whole(&document, |out| writeln!(out, "{text}"))?;
    Ok(ExitCode::from(code))
}

async fn show(connection: &mut PgConnection, report_id: Uuid, output: Output) -> anyhow::Result<ExitCode> {
    let (report, lines, requests) = find(connection, report_id).await?;
    let shown = Shown { report, lines, requests };
    output.whole(&shown, |text| write(text, &shown))?;
    Ok(ExitCode::SUCCESS)
}

async fn find(
    connection: &mut PgConnection,
    report_id: Uuid,
) -> anyhow::Result<(ReportView, Vec<LineView>, Vec<RequestView>)> {
    let found = view::show(connection, report_id).await?;
    Ok(found.ok_or_else(|| Wrong(format!("no shipment {report_id} is stored")))?)
}

/// Carries out a decision, or without `--apply` says whether it could be.
async fn decide(
    connection: &mut PgConnection,
    report_id: Uuid,
    decision: &Decision,
    options: DecisionOptions,
) -> anyhow::Result<ExitCode> {
    let DecisionOptions { reason, by, apply, output } = options;
    let done = match apply {
        true => {
            let (by, reason) = (by.name()?, reason.needed()?);
            settle::settle(connection, report_id, decision, &by, &reason, SystemClock.now()).await?
        }
        false => decision.fits(&find(connection, report_id).await?.0.state),
    };
    if !done {
        let state = find(connection, report_id).await?.0.state;
        bail!(Wrong(format!("nothing was changed: shipment {report_id} is {state}; this cannot be decided about it")));
    }
    let end = match decision {
        Decision::Reported { fulfillment_id } => format!("reported, as {fulfillment_id}"),
        Decision::SendAgain => "sent again".to_owned(),
        Decision::Withdrawn => "withdrawn".to_owned(),
    };
    let decided = Decided { applied: apply, report_id, state: decision.state() };
    output.whole(&decided, |text| match apply {
        true => writeln!(text, "shipment {report_id} is {end}"),
        false => writeln!(text, "shipment {report_id} would be {end}; --apply does it"),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the worker that reports, if an API key is configured.
pub(crate) fn start(config: &Config, context: &Context) -> anyhow::Result<()> {
    let digital_river = config.digital_river();
    if digital_river.accounts().next().is_none() {
        return Ok(());
    }
    match (digital_river.validate(), config.digital_river.accounts().next()) {
        (Err(error), Some(_)) => return Err(error.into()),
        // The invoice-fetcher's key need not be readable in the process of the processor, as long as nothing is shipped.
        (Err(error), None) => {
            tracing::warn!(
                "shipments are not reported: [digital_river] has no API key, and that of [invoice_fetcher] cannot be used: \
                 {error}"
            );
            return Ok(());
        }
        (Ok(()), _) => {}
    }
    let client = Client::new(&digital_river, Arc::new(SystemClock))?;
    riverlock_digital_river::metrics::describe();
    context.shutdown.spawn("shipments", worker::run(client, config.postgres.clone(), context.clone()));
    Ok(())
}

fn write_row(text: &mut String, report: &ReportView) -> fmt::Result {
    let ReportView { report_id, order_id, state, created_at, .. } = report;
    let detail = report.fulfillment_id.as_deref().or(report.last_error.as_deref()).unwrap_or_default();
    let created = created_at.format("%Y-%m-%d %H:%M:%S");
    writeln!(text, "{created}  {report_id}  order {order_id} ({})  {state:10}  {detail}", report.mode())
}

fn write(text: &mut String, Shown { report, lines, requests }: &Shown) -> fmt::Result {
    let optional = |text: &Option<String>| text.clone().unwrap_or_default();
    for (name, value) in [
        ("shipment", report.report_id.to_string()),
        ("order", format!("{} ({})", report.order_id, report.mode())),
        ("state", report.state.clone()),
        ("fulfillment", optional(&report.fulfillment_id)),
        ("key", report.idempotency_key.clone()),
        ("stored", format!("{} by {}", report.created_at.to_rfc3339(), report.created_by)),
        ("carrier", optional(&report.tracking_company)),
        ("number", optional(&report.tracking_number)),
        ("address", optional(&report.tracking_url)),
        ("last failure", optional(&report.last_error)),
        (
            "settled",
            report
                .settled_by
                .as_ref()
                .map_or(String::new(), |by| format!("{by}: {}", optional(&report.settled_reason))),
        ),
    ] {
        if !value.is_empty() {
            writeln!(text, "{name:<13} {value}")?;
        }
    }
    for line in lines {
        writeln!(text, "  line {}: {} shipped, {} cancelled", line.line_id, line.quantity, line.cancel_quantity)?;
    }
    for request in requests {
        let status = request.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
        let id = request.request_id.as_deref().unwrap_or("-");
        let time = request.requested_at.format("%Y-%m-%d %H:%M:%S");
        writeln!(text, "  {time}  {}  {status}  {id}  {}", request.operation, request.result)?;
    }
    Ok(())
}
