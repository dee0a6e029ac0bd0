//! Dead letters as text.

use riverlock_recovery::dead_letters::{ActionView, LetterView};
use riverlock_schemas::time::rfc3339;
use serde::Serialize;

use crate::terminal::{
    table::{Column, Layout, Table},
    text::{count, fields, optional, or_missing, printable},
};

/// The columns of `dead-letters list`.
pub(super) const COLUMNS: [Column; 8] = [
    Column::text("FAILED"),
    Column::text("RECORD"),
    Column::text("EVENT"),
    Column::text("TYPE"),
    Column::text("ORDER"),
    Column::text("STATE"),
    Column::number("ATTEMPTS"),
    Column::text("ERROR"),
];

/// The values of one dead letter in `dead-letters list`.
pub(super) fn values(letter: &LetterView) -> [String; 8] {
    [
        rfc3339(letter.created_at),
        letter.position().to_string(),
        letter.event_id.clone(),
        or_missing(&letter.event_type),
        optional(letter.order_id.as_deref()),
        letter.state.clone(),
        letter.attempts.to_string(),
        format!("{}: {}", letter.reason, letter.detail),
    ]
}

/// A dead letter with the actions taken.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LetterReport {
    #[serde(flatten)]
    letter: LetterView,
    header_names: Vec<String>,
    actions: Vec<ActionView>,
    /// The body, if it was requested and is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    /// The body in hexadecimal digits, if it was requested and is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_hex: Option<String>,
}

impl LetterReport {
    /// `body` is absent if it was not requested.
    pub(super) fn new(
        letter: LetterView,
        header_names: Vec<String>,
        actions: Vec<ActionView>,
        body: Option<Vec<u8>>,
    ) -> Self {
        let (payload, payload_hex) = match body.map(String::from_utf8) {
            None => (None, None),
            Some(Ok(text)) => (Some(text), None),
            Some(Err(error)) => (None, Some(error.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect())),
        };
        Self { letter, header_names, actions, payload, payload_hex }
    }

    /// Writes the state and the error first, then the details.
    pub(super) fn write(&self, text: &mut String) {
        let Self { letter, header_names, actions, payload, payload_hex } = self;
        let mode = letter.live_mode.map_or("unknown mode", |live| if live { "live" } else { "test" });
        let state = format!("{}, outcome {}", letter.state, letter.outcome);
        text.push_str(&format!("dead letter {}: {}\n", letter.position(), state.to_uppercase()));
        let published = letter.published_at.map_or_else(|| "not yet".to_owned(), rfc3339);
        let attempts = count(letter.attempts, "attempt");
        let attempts = format!("{attempts}, the last at {}", rfc3339(letter.attempted_at));
        fields(
            text,
            "  ",
            &[
                ("error", format!("{}: {}", letter.reason, printable(&letter.detail))),
                ("event", format!("{}, type {}", printable(&letter.event_id), or_missing(&letter.event_type))),
                ("order", format!("{} ({mode})", optional(letter.order_id.as_deref()))),
                ("failed", rfc3339(letter.created_at)),
                ("attempts", attempts),
                ("published", published),
                ("body", format!("{} bytes, SHA-256 {}", letter.body_bytes, letter.body_sha256)),
                ("headers", printable(&header_names.join(", "))),
            ],
        );
        action_table(actions).section(text, "actions", Layout::of_sections());
        // Unchanged: the body was requested, and may be read by another program.
        if let Some(body) = payload.as_ref().or(payload_hex.as_ref()) {
            text.push_str(&format!("{body}\n"));
        }
    }
}

fn action_table(actions: &[ActionView]) -> Table {
    const COLUMNS: [Column; 5] = [
        Column::text("TIME"),
        Column::text("ACTION"),
        Column::text("BY"),
        Column::text("REASON"),
        Column::text("OUTCOME"),
    ];
    let mut table = Table::new(&COLUMNS);
    for action in actions {
        let reason = action.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let detail = action.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
        table.row([
            rfc3339(action.acted_at),
            action.action.clone(),
            action.acted_by.clone(),
            action.why.clone(),
            format!("{}{reason}{detail}", action.outcome),
        ]);
    }
    table
}
