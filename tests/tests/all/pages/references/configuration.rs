//! `docs/reference/configuration.md`.

use std::fmt::Write as _;

use serde_json::Value;

use super::{
    check_part, row,
    settings::{Setting, Shape, Table, tables},
};

/// A value as it is written in TOML.
pub(super) fn toml(value: &Value) -> String {
    match value {
        Value::Object(entries) => {
            let entries: Vec<String> = entries.iter().map(|(key, value)| format!("{key} = {}", toml(value))).collect();
            if entries.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", entries.join(", ")) }
        }
        Value::Array(items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        // JSON's strings are strings of TOML.
        other => other.to_string(),
    }
}

/// How a table's header is written.
pub(super) fn header(table: &Table) -> String {
    match table.shape {
        Shape::Array => format!("[[{}]]", table.path),
        Shape::Table | Shape::Map => format!("[{}]", table.path),
    }
}

fn default(setting: &Setting) -> String {
    match &setting.default {
        Some(value) => format!("`{}`", toml(value)),
        None if setting.is_required => "required".to_owned(),
        None => "none".to_owned(),
    }
}

#[test]
fn the_page_has_every_setting() {
    let mut text = String::new();
    let tables = tables();
    for table in &tables {
        let level = if table.path.contains('.') { "###" } else { "##" };
        write!(text, "{level} `{}`\n\n{}\n\n", header(table), table.meaning).unwrap();
        if table.settings.is_empty() {
            continue;
        }
        text.push_str("| key | value | default | meaning |\n| --- | --- | --- | --- |\n");
        for setting in &table.settings {
            let key = format!("`{}`", setting.key);
            text.push_str(&row([key.as_str(), &setting.kind, &default(setting), &setting.meaning]));
        }
        text.push('\n');
    }
    let settings = tables.iter().map(|table| table.settings.len()).sum::<usize>();
    assert!(settings > 100, "only {settings} settings were found: the test showed nothing");
    check_part("docs/reference/configuration.md", "settings", &text);
}
