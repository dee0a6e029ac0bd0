//! Reporting shipments at the rate limit.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use riverlock_runtime::Context;
use riverlock_sandbox::stack::usage;
use riverlock_shipments::worker;
use riverlock_tests::Database;

use crate::account::Account;

/// Digital River's limit of live mode.
const RATE: u32 = 250;

/// The longest that the reports may take beyond the limit.
const PATIENCE: Duration = Duration::from_secs(120);

/// Reports shipments. Returns the report.
pub(crate) async fn measure(shipments: u64) -> anyhow::Result<String> {
    let database = Database::create().await?;
    let mut connection = database.connect().await?;
    let wanted = i64::try_from(shipments)?;
    let reports = "INSERT INTO shipment_reports (report_id, order_id, live_mode, idempotency_key, content_sha256, source,
                       created_by, state, next_attempt_at, created_at)
                   SELECT gen_random_uuid(), i::text, false, 'k', sha256(i::text::bytea), 'api', 'bench', 'waiting', now(), now()
                   FROM generate_series(1, $1::bigint) i";
    sqlx::query(reports).bind(wanted).execute(&mut connection).await?;
    let lines = "INSERT INTO shipment_report_lines (report_id, line_id, quantity, cancel_quantity)
                 SELECT report_id, l::text, 1, 0 FROM shipment_reports, generate_series(1, 3) l";
    sqlx::query(lines).execute(&mut connection).await?;
    sqlx::raw_sql("ANALYZE shipment_reports; ANALYZE shipment_report_lines").execute(&mut connection).await?;
    let account = Account::start(0, RATE).await?;

    let (context, pid) = (Context::new(), i32::try_from(std::process::id())?);
    let (begun, before) = (Instant::now(), usage::own_cpu(pid)?);
    let work = worker::run(account.client.clone(), database.config.clone(), context.clone());
    context.shutdown.spawn("shipments", work);
    let limit = Duration::from_secs(shipments / u64::from(RATE)) + PATIENCE;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let reported = "SELECT count(*) FROM shipment_reports WHERE state = 'reported'";
        let reported: i64 = sqlx::query_scalar(reported).fetch_one(&mut connection).await?;
        if reported == wanted {
            break;
        }
        anyhow::ensure!(begun.elapsed() < limit, "{reported} of {wanted} shipments are reported");
    }
    let (elapsed, cpu) = (begun.elapsed().as_secs_f64(), (usage::own_cpu(pid)? - before).as_secs_f64());
    context.shutdown.stop();
    anyhow::ensure!(context.shutdown.wait(PATIENCE).await, "the worker did not end");

    let rate = shipments as f64 / elapsed;
    let mut text = String::new();
    writeln!(text, "shipments of {shipments} orders, each answered after 200 ms, at most {RATE} requests a second")?;
    writeln!(text, "  rate       {rate:.0} a second for {elapsed:.1} s           target: {RATE}")?;
    writeln!(
        text,
        "  CPU        {:.0} µs a shipment, {:.3} of a core    target: 0.1 of a core",
        cpu * 1e6 / shipments as f64,
        cpu / elapsed
    )?;
    Ok(text)
}
