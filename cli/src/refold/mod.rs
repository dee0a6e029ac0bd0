//! `riverlock refold`: orders again, from their audited events, with today's code.

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;
use riverlock_processor::{
    Orders,
    refold::{self, Finding, Plan, Reason, Selection, Tally},
};
use riverlock_runtime::{Clock as _, SystemClock};

use crate::{args::refold::RefoldOptions, bar, config::Config};

pub(crate) async fn run(file: Option<&Path>, options: RefoldOptions) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    config.processor.validate()?;
    let now = SystemClock.now();
    let selection = if options.all {
        Selection::All
    } else if options.order_id.is_empty() {
        Selection::Like { status: options.status, changed_since: options.changed_since.map(|moment| moment.at(now)) }
    } else {
        Selection::Ids(options.order_id)
    };
    let apply = if options.apply {
        let why = options.reason.filter(|reason| !reason.trim().is_empty()).context("--reason is empty")?;
        Some(Reason { by: options.by, why })
    } else {
        None
    };
    let is_applied = apply.is_some();
    let plan = Plan {
        selection,
        orders: Orders::new(config.processor.modes.clone()),
        other_topics: config.kafka.topics().files(),
        apply,
        clock: &SystemClock,
    };
    let bar = bar::new("orders")?;
    let mut found = |finding: Finding| bar.suspend(|| print(&finding, options.json));
    let progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let tally = refold::run(&config.kafka, &config.postgres, plan, &mut found, &progress).await;
    bar.finish_and_clear();
    let tally = tally.context("refolding did not come to its end")?;
    if !options.json {
        println!("{}", summary(&tally, is_applied));
    }
    let is_known = tally.folded + tally.refused > 0;
    let is_right = tally.refused == 0 && (is_applied || tally.differing == 0);
    Ok(if is_known && is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(finding: &Finding, json: bool) {
    let text = match (finding, json) {
        (Finding::Differs(diff), false) => diff.to_string(),
        (Finding::Differs(diff), true) => serde_json::json!({ "differs": diff }).to_string(),
        (Finding::Refused(key, refusal), false) => {
            format!("order {} ({}) is left as it is: {refusal}", key.order_id, key.mode)
        }
        (Finding::Refused(key, refusal), true) => {
            let refused =
                serde_json::json!({ "orderId": key.order_id, "mode": key.mode, "reason": refusal.to_string() });
            serde_json::json!({ "refused": refused }).to_string()
        }
        (Finding::Unreadable(row), false) => format!("{row}; it is left as it is"),
        (Finding::Unreadable(row), true) => serde_json::json!({ "refused": { "reason": row } }).to_string(),
    };
    crate::out::print(&format!("{text}\n"));
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
