//! `riverlock refold`: orders again, from their audited events, with today's code.

pub mod args;

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;
use riverlock_processor::refold::{self, Reason, RefoldFinding, RefoldPlan, Selection, Tally};
use riverlock_runtime::{Clock as _, SystemClock};

use crate::{
    config::Config, consumers, exit, repair::refold::args::RefoldOptions, terminal::out::Output,
    terminal::progress as bar,
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
    let apply =
        if options.apply { Some(Reason { by: options.by.name()?, why: options.reason.needed()? }) } else { None };
    let is_applied = apply.is_some();
    let plan = RefoldPlan {
        selection,
        orders: consumers::orders(&config),
        other_topics: config.kafka.topics().files(),
        apply,
        clock: &SystemClock,
    };
    let bar = bar::new("orders")?;
    let output = options.output;
    let mut printed = Ok(());
    let mut found = |finding: RefoldFinding| {
        let result = bar.suspend(|| print(&finding, output));
        if printed.is_ok() {
            printed = result;
        }
    };
    let progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let tally = refold::run(&config.kafka, &config.postgres, plan, &mut found, &progress).await;
    bar.finish_and_clear();
    let tally = tally.context("refolding did not come to its end")?;
    printed?;
    let Tally { folded, differing, written, refused, effects } = &tally;
    let counts = serde_json::json!({ "summary": {
        "applied": is_applied, "folded": folded, "differing": differing, "written": written, "refused": refused,
        "messages": effects,
    }});
    output.each(&counts, || summary(&tally, is_applied))?;
    let is_known = tally.folded + tally.refused > 0;
    let is_right = tally.refused == 0 && (is_applied || tally.differing == 0);
    Ok(exit::well_if(is_known && is_right))
}

fn print(finding: &RefoldFinding, output: Output) -> anyhow::Result<()> {
    match finding {
        RefoldFinding::Differs(diff) => output.each(&serde_json::json!({ "differs": diff }), || diff.to_string()),
        RefoldFinding::Refused(key, refusal) => {
            let (order_id, mode) = (&key.order_id, key.mode);
            let refused = serde_json::json!({ "orderId": order_id, "mode": mode, "reason": refusal.to_string() });
            output.each(&serde_json::json!({ "refused": refused }), || {
                format!("order {order_id} ({mode}) is left as it is: {refusal}")
            })
        }
        RefoldFinding::Unreadable(row) => {
            let refused = serde_json::json!({ "reason": row });
            output.each(&serde_json::json!({ "refused": refused }), || format!("{row}; it is left as it is"))
        }
    }
}

fn summary(tally: &Tally, is_applied: bool) -> String {
    let Tally { folded, differing, written, refused, effects } = tally;
    if folded + refused == 0 {
        return "no such order is known".to_owned();
    }
    let done = if is_applied {
        format!("{written} were written, {effects} messages were added to the outbox")
    } else if *differing > 0 {
        format!("{effects} messages would fire; --apply --reason <why> writes")
    } else {
        "nothing is to be done".to_owned()
    };
    let refused = if *refused > 0 { format!(", {refused} are left as they are") } else { String::new() };
    format!("{folded} orders were folded again, {differing} differ{refused}; {done}")
}
