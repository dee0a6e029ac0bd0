//! `riverlock shipments`: what is shipped or cancelled, and whether Digital River has it.
//!
//! Exit codes: 0 when it is done, 1 when the command failed or nothing was found, 3 when a shipment is refused.

use std::{fmt::Write as _, path::Path, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use riverlock_digital_river::Client;
use riverlock_runtime::{Clock as _, Context, SystemClock};
use riverlock_shipments::{
    AddError, Added, NewReport, Source, add,
    settle::{self, Decision},
    view::{self, LineView, ReportView, RequestView},
    worker,
};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    args::shipments::{AddOptions, SettleOptions, ShipmentsCommand},
    config::Config,
    out,
};

/// The shipment does not fit what is known of its order.
const REFUSED: u8 = 3;

pub(crate) async fn run(file: Option<&Path>, command: ShipmentsCommand) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let mut connection = config.postgres.connect().await.context("PostgreSQL does not take a connection")?;
    match command {
        ShipmentsCommand::Add(options) => store(&mut connection, options).await,
        ShipmentsCommand::List { order, state, limit, json } => {
            let state = state.map(crate::args::shipments::StateArg::as_str);
            let reports = view::list(&mut connection, order.as_deref(), state, limit).await?;
            let text = if json { serde_json::to_string_pretty(&reports)? + "\n" } else { table(&reports) };
            out::print(&text);
            Ok(ExitCode::SUCCESS)
        }
        ShipmentsCommand::Show { report_id, json } => show(&mut connection, report_id, json).await,
        ShipmentsCommand::Retry { report_id, reason } => {
            decide(&mut connection, report_id, &Decision::SendAgain, "riverlock shipments retry", &reason).await
        }
        ShipmentsCommand::Settle(SettleOptions { report_id, reported_as, withdraw, reason, by, .. }) => {
            let decision = match reported_as {
                Some(fulfillment_id) => Decision::Reported { fulfillment_id },
                None if withdraw => Decision::Withdrawn,
                None => Decision::SendAgain,
            };
            decide(&mut connection, report_id, &decision, &by, &reason).await
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
        created_by: options.by,
    };
    match add::add(connection, &new, SystemClock.now()).await {
        Ok(Added { report_id, repeated }) => {
            if options.json {
                println!("{}", json!({ "reportId": report_id, "repeated": repeated }));
            } else if repeated {
                println!("Shipment {report_id} was stored before with this key.");
            } else {
                println!("Shipment {report_id} is stored; the processor reports it to Digital River.");
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(AddError::Sql(error)) => Err(error.into()),
        Err(error) => {
            let code = match &error {
                AddError::Refused(refusal) => refusal.code(),
                AddError::KeyReused(_) => "idempotency_key_reused",
                _ => "invalid_parameter",
            };
            if options.json {
                println!("{}", json!({ "code": code, "message": error.to_string() }));
            } else {
                eprintln!("Not stored [{code}]: {error}");
            }
            Ok(ExitCode::from(REFUSED))
        }
    }
}

async fn show(connection: &mut PgConnection, report_id: Uuid, as_json: bool) -> anyhow::Result<ExitCode> {
    let Some((report, lines, requests)) = view::show(connection, report_id).await? else {
        eprintln!("No shipment {report_id} is stored.");
        return Ok(ExitCode::FAILURE);
    };
    if as_json {
        let document = json!({ "report": report, "lines": lines, "requests": requests });
        out::print(&format!("{}\n", serde_json::to_string_pretty(&document)?));
    } else {
        out::print(&one(&report, &lines, &requests));
    }
    Ok(ExitCode::SUCCESS)
}

async fn decide(
    connection: &mut PgConnection,
    report_id: Uuid,
    decision: &Decision,
    by: &str,
    reason: &str,
) -> anyhow::Result<ExitCode> {
    if settle::settle(connection, report_id, decision, by, reason, SystemClock.now()).await? {
        println!(
            "Shipment {report_id} {}.",
            match decision {
                Decision::Reported { fulfillment_id } => format!("is reported, as {fulfillment_id}"),
                Decision::SendAgain => "is sent again".to_owned(),
                Decision::Withdrawn => "is withdrawn".to_owned(),
            }
        );
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "Nothing was changed: shipment {report_id} is not refused or unresolved. `riverlock shipments show` says what it is."
    );
    Ok(ExitCode::FAILURE)
}

/// Starts the worker that reports, if an API key is configured.
pub(crate) fn start(config: &Config, context: &Context) -> anyhow::Result<()> {
    let digital_river = config.digital_river();
    if digital_river.accounts().next().is_none() {
        return Ok(());
    }
    digital_river.validate()?;
    let client = Client::new(&digital_river, Arc::new(SystemClock))?;
    riverlock_digital_river::metrics::describe();
    context.shutdown.spawn("shipments", worker::run(client, config.postgres.clone(), context.clone()));
    Ok(())
}

fn table(reports: &[ReportView]) -> String {
    let mut text = String::new();
    for report in reports {
        let ReportView { report_id, order_id, state, created_at, .. } = report;
        let detail = report.fulfillment_id.as_deref().or(report.last_error.as_deref()).unwrap_or_default();
        let created = created_at.format("%Y-%m-%d %H:%M:%S");
        let _ = writeln!(text, "{created}  {report_id}  order {order_id} ({})  {state:10}  {detail}", report.mode());
    }
    let _ = writeln!(text, "{} shipments", reports.len());
    text
}

fn one(report: &ReportView, lines: &[LineView], requests: &[RequestView]) -> String {
    let mut text = String::new();
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
            let _ = writeln!(text, "{name:<13} {value}");
        }
    }
    for line in lines {
        let _ =
            writeln!(text, "  line {}: {} shipped, {} cancelled", line.line_id, line.quantity, line.cancel_quantity);
    }
    for request in requests {
        let status = request.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
        let id = request.request_id.as_deref().unwrap_or("-");
        let time = request.requested_at.format("%Y-%m-%d %H:%M:%S");
        let _ = writeln!(text, "  {time}  {}  {status}  {id}  {}", request.operation, request.result);
    }
    text
}
