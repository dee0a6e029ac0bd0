//! `riverlock refold`: orders are recomputed from their stored events with this version.

pub mod args;

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;
use riverlock_processor::refold::{self, Reason, RefoldFinding, RefoldPlan, Selection, Tally};
use riverlock_runtime::{Clock as _, SystemClock};

use self::args::RefoldOptions;
use crate::{
    config::Config,
    consumers, exit,
    terminal::{out::Output, progress, text::count},
};

pub(crate) async fn run(file: Option<&Path>, options: RefoldOptions) -> anyhow::Result<ExitCode> {
    let config = Config::load_with_kafka(file)?;
    consumers::check(&config)?;
    let now = SystemClock.now();
    let selection = if options.all {
        Selection::All
    } else if options.order_id.is_empty() {
        Selection::Like { status: options.status, changed_since: options.since.map(|moment| moment.at(now)) }
    } else {
        Selection::Ids(options.order_id)
    };
    let apply = if options.apply {
        Some(Reason { by: options.operator.name()?, why: options.reason.required()? })
    } else {
        None
    };
    let is_applied = apply.is_some();
    let plan = RefoldPlan {
        selection,
        orders: consumers::orders(&config),
        other_topics: config.kafka.topics().documents_of_all_versions(),
        apply,
        clock: &SystemClock,
    };
    let bar = progress::counting("orders")?;
    let output = options.output;
    let mut printed = Ok(());
    let mut found = |finding: RefoldFinding| {
        let result = bar.suspend(|| print(&finding, output));
        if printed.is_ok() {
            printed = result;
        }
    };
    let observe = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let tally = refold::run(&config.kafka, &config.postgres, plan, &mut found, &observe).await;
    bar.finish_and_clear();
    let tally = tally.context("recomputing orders")?;
    printed?;
    let Tally { recomputed, differing, written, blocked, effects } = &tally;
    let counts = serde_json::json!({ "summary": {
        "applied": is_applied, "recomputed": recomputed, "differing": differing, "written": written, "blocked": blocked,
        "messages": effects,
    }});
    output.each(&counts, || summary(&tally, is_applied))?;
    let is_known = tally.recomputed + tally.blocked > 0;
    let is_right = tally.blocked == 0 && (is_applied || tally.differing == 0);
    Ok(exit::success_if(is_known && is_right))
}

fn print(finding: &RefoldFinding, output: Output) -> anyhow::Result<()> {
    match finding {
        RefoldFinding::Differs(diff) => output.each(&serde_json::json!({ "differs": diff }), || diff.to_string()),
        RefoldFinding::Blocked(key, obstacle) => {
            let (order_id, mode) = (&key.order_id, key.mode);
            let blocked = serde_json::json!({ "orderId": order_id, "mode": mode, "reason": obstacle.to_string() });
            output.each(&serde_json::json!({ "blocked": blocked }), || {
                format!("order {order_id} ({mode}) is not changed: {obstacle}")
            })
        }
        RefoldFinding::Unreadable(row) => {
            let blocked = serde_json::json!({ "reason": row });
            output.each(&serde_json::json!({ "blocked": blocked }), || format!("{row}; it is not changed"))
        }
    }
}

fn summary(tally: &Tally, is_applied: bool) -> String {
    let Tally { recomputed, differing, written, blocked, effects } = tally;
    if recomputed + blocked == 0 {
        return "no such order".to_owned();
    }
    let done = if is_applied {
        format!("{written} written, {} added to the outbox", count(*effects, "message"))
    } else if *differing > 0 {
        format!("{} would be sent; apply with --apply --reason TEXT", count(*effects, "message"))
    } else {
        "nothing to change".to_owned()
    };
    let blocked = if *blocked > 0 { format!(", {blocked} cannot be recomputed") } else { String::new() };
    format!("{} recomputed, {differing} differ{blocked}; {done}", count(*recomputed, "order"))
}
