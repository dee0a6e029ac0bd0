//! The settings of the configuration, read from the JSON Schema of its types.

use riverlock::config::Config;
use riverlock_runtime::config::{DURATION_FORMAT, SECRET_FORMAT};
use serde_json::{Map, Value};

/// The form of a table's header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `[path]`
    Table,
    /// `[[path]]`
    Array,
    /// `[path]`, with keys that the user chooses.
    Map,
}

/// A table of the configuration.
pub(super) struct Table {
    /// Its path, such as `ingest.limits`.
    pub(super) path: String,
    pub(super) shape: Shape,
    pub(super) meaning: String,
    pub(super) settings: Vec<Setting>,
}

/// A key of a table.
pub(super) struct Setting {
    pub(super) key: String,
    /// The type of its value, such as `duration`.
    pub(super) kind: String,
    /// `None` if there is no default; then [`Setting::is_required`] says whether a value is needed.
    pub(super) default: Option<Value>,
    pub(super) is_required: bool,
    pub(super) meaning: String,
    /// A valid value.
    pub(super) example: Value,
}

/// Every table of the configuration, each before the tables inside it.
pub(super) fn tables() -> Vec<Table> {
    let schema = schemars::schema_for!(Config).to_value();
    let definitions = schema["$defs"].as_object().cloned().unwrap_or_default();
    let mut reader = Reader { definitions, tables: Vec::new() };
    for (section, property) in schema["properties"].as_object().unwrap() {
        reader.table(section, property);
    }
    reader.tables
}

struct Reader {
    definitions: Map<String, Value>,
    tables: Vec<Table>,
}

impl Reader {
    /// A schema without references and without the `null` of an optional value.
    fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.rsplit('/').next().unwrap();
            return self.resolved(&self.definitions[name]);
        }
        let choices = schema["anyOf"].as_array().or_else(|| schema["allOf"].as_array());
        match choices.and_then(|choices| choices.iter().find(|choice| choice["type"] != "null")) {
            Some(choice) => self.resolved(choice),
            None => schema,
        }
    }

    /// The form of a property's table and the schema of its entries; `None` for a single value.
    fn shape<'a>(&'a self, property: &'a Value) -> Option<(Shape, &'a Value)> {
        let schema = self.resolved(property);
        let entries = self.resolved(&schema["items"]);
        if schema["properties"].is_object() {
            Some((Shape::Table, schema))
        } else if entries["properties"].is_object() {
            Some((Shape::Array, entries))
        } else if schema["additionalProperties"].is_object() {
            Some((Shape::Map, schema))
        } else {
            None
        }
    }

    fn table(&mut self, path: &str, property: &Value) {
        let (shape, schema) = self.shape(property).unwrap_or_else(|| panic!("{path} is no table"));
        let schema = schema.clone();
        let meaning = meaning(path, text_of(property), text_of(&schema));
        let (mut settings, mut inner) = (Vec::new(), Vec::new());
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{key}");
            if let Some((shape, nested)) = self.shape(property) {
                if shape == Shape::Table && property["default"].is_object() {
                    self.assert_same_defaults(&path, &property["default"], nested);
                }
                inner.push((path, property.clone()));
            } else {
                let required = schema["required"].as_array().is_some_and(|keys| keys.iter().any(|one| one == key));
                settings.push(self.setting(&path, key, property, required));
            }
        }
        self.tables.push(Table { path: path.to_owned(), shape, meaning, settings });
        for (path, property) in inner {
            self.table(&path, &property);
        }
    }

    /// The page shows one default per key, so the defaults of a table and of the table around it must agree.
    fn assert_same_defaults(&self, path: &str, outer: &Value, nested: &Value) {
        for (key, property) in nested["properties"].as_object().unwrap() {
            let inner = &property["default"];
            let is_known = !outer[key].is_null() && !inner.is_null();
            assert!(!is_known || &outer[key] == inner, "{path}.{key} has two defaults: {inner} and {}", outer[key]);
        }
    }

    fn setting(&self, path: &str, key: &str, property: &Value, is_required: bool) -> Setting {
        let schema = self.resolved(property);
        let meaning = text_of(property).unwrap_or_else(|| panic!("{path} has no description"));
        assert!(!meaning.contains("[`"), "{path}: a link to code is useless on the page: {meaning}");
        let default = property.get("default").filter(|default| !default.is_null()).cloned();
        let example = property["examples"].get(0).cloned();
        // Defaults of secrets are redacted; the example has the value.
        let is_redacted = default.is_some() && schema["format"] == SECRET_FORMAT;
        let default = if is_redacted { example.clone() } else { default };
        let example = example.or_else(|| default.clone()).unwrap_or_else(|| self.example(key, schema));
        Setting { key: key.to_owned(), kind: self.kind(key, schema), default, is_required, meaning, example }
    }

    fn kind(&self, key: &str, schema: &Value) -> String {
        let names = values(schema);
        if !names.is_empty() {
            return names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ");
        }
        let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str()).unwrap_or("any");
        match (kind, schema["format"].as_str()) {
            (_, Some(DURATION_FORMAT)) => "duration".to_owned(),
            (_, Some(SECRET_FORMAT)) => "secret".to_owned(),
            (_, Some("uri")) => "URL".to_owned(),
            (_, Some("date-time")) => "time".to_owned(),
            ("integer" | "number", _) => number(key).to_owned(),
            ("array", _) => format!("list: {}", self.kind(key, self.resolved(&schema["items"]))),
            ("string", _) => "text".to_owned(),
            ("boolean", _) => "true or false".to_owned(),
            _ => "table".to_owned(),
        }
    }

    /// A valid value for a key without default.
    fn example(&self, key: &str, schema: &Value) -> Value {
        if let Some(name) = values(schema).first() {
            return Value::from(name.as_str());
        }
        let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str()).unwrap_or("any");
        match (kind, schema["format"].as_str()) {
            (_, Some(DURATION_FORMAT)) => Value::from("1h"),
            (_, Some(SECRET_FORMAT)) => Value::from(format!("file:/etc/riverlock/secrets/{}", key.replace('_', "-"))),
            (_, Some("uri")) => Value::from("https://riverlock.example"),
            (_, Some("date-time")) => Value::from("2026-01-31T12:00:00Z"),
            ("integer" | "number", _) => Value::from(100),
            ("array", _) => Value::Array(vec![self.example(key, self.resolved(&schema["items"]))]),
            ("boolean", _) => Value::from(false),
            ("string", _) => panic!("{key} needs an example: #[schemars(example = …)]"),
            _ => Value::Object(Map::new()),
        }
    }
}

/// The values of an enumeration, in order.
fn values(schema: &Value) -> Vec<String> {
    let listed = schema["enum"].as_array().into_iter().flatten();
    let described = schema["oneOf"].as_array().into_iter().flatten().map(|one| &one["const"]);
    listed.chain(described).filter_map(|value| Some(value.as_str()?.to_owned())).collect()
}

/// The unit of a number, from its name.
fn number(key: &str) -> &'static str {
    let units = [
        ("bytes_per_second", "bytes per second"),
        ("per_second", "number per second"),
        ("per_second_max", "number per second"),
        ("bytes", "bytes"),
        ("bytes_max", "bytes"),
        ("_ms", "milliseconds"),
        ("percent", "percent"),
    ];
    units.iter().find(|(end, _)| key.ends_with(end)).map_or("number", |(_, unit)| unit)
}

/// The description of a table: of its type for a section; otherwise of its key, with that of its type if there is one.
fn meaning(path: &str, key: Option<String>, of_type: Option<String>) -> String {
    let key = key.filter(|_| path.contains('.'));
    let more = of_type.as_deref().and_then(|text| Some(text.split_once("\n\n")?.1.to_owned()));
    match (key, more) {
        (Some(key), Some(more)) => format!("{key}\n\n{more}"),
        (Some(key), None) => key,
        (None, _) => of_type.unwrap_or_else(|| panic!("{path} has no description")),
    }
}

fn text_of(schema: &Value) -> Option<String> {
    let text = schema["description"].as_str()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}
