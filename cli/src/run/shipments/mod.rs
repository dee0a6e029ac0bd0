//! `riverlock shipments`: stored shipments and their reports to Digital River.

pub mod args;
mod print;

use std::{fmt::Write as _, path::Path, process::ExitCode, sync::Arc};

use anyhow::{Context as _, bail};
use riverlock_digital_river::Client;
use riverlock_ledger::postgres::bounded;
use riverlock_runtime::{Clock as _, Context, SystemClock};
use riverlock_shipments::{
    AddError, NewReport, Source, StoredReport, add, intake,
    settle::{self, Decision},
    view, worker,
};
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use self::{
    args::{AddOptions, SettleOptions, ShipmentsCommand, StateOption},
    print::ShipmentReport,
};
use crate::{
    config::Config,
    exit::{self, Problem},
    options::change::ChangeOptions,
    terminal::out::{Output, Page},
};

/// The result of `retry` and `settle`, or of their dry runs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DecisionReport {
    /// Whether the changes were applied.
    applied: bool,
    report_id: Uuid,
    /// The new state of the report.
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
            let state = state.map(StateOption::as_str);
            let reports = view::list(connection, order.as_deref(), state, after, limit + 1).await?;
            let page = Page::cut(reports, limit, |report| report.report_id.to_string());
            output.page(&page, "shipment", &print::COLUMNS, print::values)?;
            Ok(ExitCode::SUCCESS)
        }
        ShipmentsCommand::Show { report_id, output } => show(connection, report_id, output).await,
        ShipmentsCommand::Rejected { order, limit, output } => {
            let found = intake::rejections(connection, order.as_deref(), limit).await?;
            let page = Page { items: found, next: None };
            output.page(&page, "record", &print::REJECTED_COLUMNS, print::rejected)?;
            Ok(ExitCode::SUCCESS)
        }
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
        created_by: options.operator.name()?,
    };
    let (document, text, code) = match add::add(connection, &new, SystemClock.now()).await {
        Ok(StoredReport { report_id, repeated }) => {
            let text = match repeated {
                true => format!("shipment {report_id} was already stored with this key"),
                false => format!("shipment {report_id} stored; the processor reports it to Digital River"),
            };
            (json!({ "reportId": report_id, "repeated": repeated }), text, exit::SUCCESS)
        }
        Err(AddError::Sql(error)) => return Err(error.into()),
        Err(error) => {
            let (name, code) = match &error {
                AddError::Refused(refusal) => (refusal.code(), exit::PROBLEM),
                AddError::KeyReused(_) => ("idempotency_key_reused", exit::PROBLEM),
                _ => ("invalid_parameter", exit::USAGE),
            };
            (json!({ "code": name, "message": error.to_string() }), format!("not stored [{name}]: {error}"), code)
        }
    };
    options.output.whole(&document, |out| writeln!(out, "{text}"))?;
    Ok(ExitCode::from(code))
}

async fn show(connection: &mut PgConnection, report_id: Uuid, output: Output) -> anyhow::Result<ExitCode> {
    let report = find(connection, report_id).await?;
    output.whole(&report, |text| {
        report.write(text);
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn find(connection: &mut PgConnection, report_id: Uuid) -> anyhow::Result<ShipmentReport> {
    let found = view::show(connection, report_id).await?;
    let found = found.map(|(report, lines, requests)| ShipmentReport { report, lines, requests });
    Ok(found.ok_or_else(|| Problem(format!("no such shipment: {report_id}")))?)
}

/// Applies a decision. A dry run checks that the report's state allows it.
async fn decide(
    connection: &mut PgConnection,
    report_id: Uuid,
    decision: &Decision,
    options: ChangeOptions,
) -> anyhow::Result<ExitCode> {
    let ChangeOptions { reason, operator, apply, output } = options;
    let done = match apply {
        true => {
            let (by, reason) = (operator.name()?, reason.required()?);
            settle::settle(connection, report_id, decision, &by, &reason, SystemClock.now()).await?
        }
        false => decision.fits(&find(connection, report_id).await?.report.state),
    };
    if !done {
        let state = find(connection, report_id).await?.report.state;
        bail!(Problem(format!(
            "nothing was changed: this decision does not apply to shipment {report_id}, which is {state}"
        )));
    }
    let end = match decision {
        Decision::Reported { fulfillment_id } => format!("reported as {fulfillment_id}"),
        Decision::SendAgain => "reported again".to_owned(),
        Decision::Withdrawn => "withdrawn".to_owned(),
    };
    let decided = DecisionReport { applied: apply, report_id, state: decision.state() };
    output.whole(&decided, |text| match apply {
        true => writeln!(text, "shipment {report_id}: {end}"),
        false => writeln!(text, "shipment {report_id} would be {end}; apply with --apply --reason TEXT"),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Starts reading shipments from Kafka and, if an API key is configured, the worker that reports shipments.
pub(crate) fn start(config: &Config, context: &Context) -> anyhow::Result<()> {
    let intake = intake::run(config.kafka.clone(), config.postgres.clone(), context.clone());
    context.shutdown.spawn("shipment-intake", intake);
    let digital_river = config.digital_river();
    if digital_river.accounts().next().is_none() {
        return Ok(());
    }
    match (digital_river.validate(), config.digital_river.accounts().next()) {
        (Err(error), Some(_)) => return Err(error.into()),
        // The processor's process need not be able to read the invoice-fetcher's key, as long as nothing is shipped.
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
