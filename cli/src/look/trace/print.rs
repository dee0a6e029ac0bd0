//! A trace for people. What strangers wrote is escaped: a terminal obeys control characters.

use std::fmt::{self, Write as _};

use riverlock_ledger::view::MessageView;

use super::{Link, Trace, receipt::Receipt};

/// The whole trace as text.
pub(super) fn write(text: &mut String, trace: &Trace) -> fmt::Result {
    let id = trace.id.escape_debug();
    match trace.known_as[..] {
        [] => {
            return writeln!(
                text,
                "nothing is known of {id}: no consumer has read an event with this id, or one about an order with this id"
            );
        }
        [_, _, ..] => {
            writeln!(text, "{id} is the id of an event and of an order; --as event or --as order shows one of them")?;
        }
        [known_as] => writeln!(text, "{known_as} {id}")?,
    }
    for order in &trace.orders {
        write!(text, "order {} ({}): {}", order.order_id.escape_debug(), order.mode, order.status.to_uppercase())?;
        if !order.anomalies.is_empty() {
            write!(text, ", ANOMALIES: {}", order.anomalies.join(", "))?;
        }
        writeln!(text)?;
    }
    for link in &trace.records {
        writeln!(text)?;
        write_link(text, link)?;
    }
    if !trace.other_messages.is_empty() {
        writeln!(text, "\nmessages of which no event above is known to be the cause:")?;
        trace.other_messages.iter().try_for_each(|message| write_message(text, message))?;
    }
    if trace.truncated {
        writeln!(text, "\nTHERE IS MORE than is shown, so what each event changed is not told")?;
    }
    if !trace.intact {
        writeln!(text, "\nTHE CHAIN IS BROKEN: a record above is not what it was when it came")?;
    }
    Ok(())
}

fn write_link(text: &mut String, link: &Link) -> fmt::Result {
    let event = &link.event;
    let mode = match event.live_mode {
        None => "",
        Some(true) => " (live)",
        Some(false) => " (test)",
    };
    writeln!(text, "{} {}{mode}", event.event_type.escape_debug(), event.event_id.escape_debug())?;
    if let Some(order_id) = &event.order_id {
        writeln!(text, "  order      {}", order_id.escape_debug())?;
    }
    if let Some(created_at) = event.created_at {
        writeln!(text, "  made       {created_at}")?;
    }
    writeln!(text, "  record     {}, taken by Kafka {}", event.position(), event.received_at)?;
    write_receipt(text, &link.receipt, &event.body_sha256)?;
    let reason = event.reason.as_deref().map(|reason| format!(" ({})", reason.escape_debug())).unwrap_or_default();
    let outcome = if event.outcome == "conflict" { "CONFLICT" } else { &event.outcome };
    writeln!(text, "  outcome    {outcome}{reason}, {}", event.recorded_at)?;
    if event.outcome == "conflict" {
        writeln!(text, "             its event came before with a body that contradicts this one; both take part")?;
    }
    if let Some(letter) = &link.dead_letter {
        for (name, value) in letter {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            writeln!(text, "  dead       {}: {}", name.replace('_', " "), value.escape_debug())?;
        }
    }
    if let Some(step) = &link.transition {
        let after = step.status_after;
        match step.status_before {
            Some(before) if before == after => writeln!(text, "  status     stays {after}")?,
            Some(before) => writeln!(text, "  status     {before} -> {after}")?,
            None => writeln!(text, "  status     {after}, as the order's first event")?,
        }
        if step.changes.is_empty() {
            writeln!(text, "  changed    nothing new")?;
        }
        for change in &step.changes {
            writeln!(text, "  changed    {}", change.escape_debug())?;
        }
        for effect in &step.effects {
            writeln!(text, "  caused     {} {}", effect.kind, effect.effect_key.escape_debug())?;
        }
    }
    link.messages.iter().try_for_each(|message| write_message(text, message))?;
    for invoice in &link.invoices {
        writeln!(text, "  document   {}", invoice.to_string().escape_debug())?;
    }
    Ok(())
}

fn write_receipt(text: &mut String, receipt: &Receipt, audited_sha256: &str) -> fmt::Result {
    let shown = |value: &Option<String>| value.as_deref().unwrap_or("unknown").escape_debug().to_string();
    if let Some(reason) = &receipt.reason {
        let what = match receipt.state {
            "gone" => "the record is no longer in Kafka",
            _ => "the record could not be read",
        };
        writeln!(text, "  receipt    {what}: {}", reason.escape_debug())?;
        return writeln!(text, "  body       SHA-256 {audited_sha256} when it was audited");
    }
    writeln!(
        text,
        "  receipt    {}, endpoint {}, origin {}, secret {}",
        shown(&receipt.received_at),
        shown(&receipt.endpoint),
        shown(&receipt.origin),
        shown(&receipt.secret_id)
    )?;
    if let Some(verdict) = &receipt.verdict {
        writeln!(text, "  signature  {}", verdict.escape_debug())?;
    }
    if let (Some(bytes), Some(sha256)) = (receipt.body_bytes, receipt.body_sha256) {
        match receipt.as_audited {
            Some(false) => {
                writeln!(text, "  body       {bytes} bytes, SHA-256 {sha256}, BUT {audited_sha256} WAS AUDITED")?;
            }
            _ => writeln!(text, "  body       {bytes} bytes, SHA-256 {sha256}, as audited")?,
        }
    }
    Ok(())
}

fn write_message(text: &mut String, message: &MessageView) -> fmt::Result {
    let published = if message.published { "published" } else { "not published yet" };
    writeln!(text, "  message    {}, written {}, {published}", message.kind.escape_debug(), message.created_at)
}
