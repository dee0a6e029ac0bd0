//! Reading of configurations, and error messages.

use std::io::Write as _;

use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    key: Secret,
    #[serde(default)]
    limit: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Section {
    limit: u32,
}

fn written(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn load_text(text: &str) -> Result<Example, ConfigError> {
    load(Some(written(text).path()))
}

/// The `Display` and `Debug` text of the error for this configuration.
fn error_text(text: &str) -> String {
    let error = load_text(text).unwrap_err();
    format!("{error} {error:?}")
}

#[test]
fn a_secret_is_given_literally_or_as_a_file_and_never_printed() {
    let example = load_text("key = 'abc'\nlimit = 3").unwrap();
    assert_eq!((example.key.read("key").unwrap(), example.limit), ("abc", 3));
    assert!(!format!("{example:?}").contains("abc"));

    let secret = written("from file\r\n");
    let example = load_text(&format!("key = 'file:{}'", secret.path().display())).unwrap();
    assert_eq!(example.key.read("key").unwrap(), "from file");
    assert_eq!(example.key.clone().expose(), "from file");
}

#[test]
fn a_secret_is_read_on_first_use() {
    let example = load_text("key = 'file:/nowhere'").unwrap();
    let error = example.key.read("section.key").unwrap_err().to_string();
    assert!(error.contains("section.key") && error.contains("/nowhere"), "{error}");

    let secret = written("first");
    let text = format!("key = 'file:{}'", secret.path().display());
    let (before, unread) = (load_text(&text).unwrap().key, load_text(&text).unwrap().key);
    before.read("key").unwrap();
    std::fs::write(secret.path(), "second").unwrap();
    assert_eq!(before.read("key").unwrap(), "first", "the value that was read is kept");
    let after = load_text(&text).unwrap().key;
    assert_eq!(after.read("key").unwrap(), "second");
    assert!(before != after && before != unread && before == before.clone());

    let large = written(&"x".repeat(70_000));
    let error = Secret::from_file(large.path()).read("key").unwrap_err().to_string();
    assert!(error.contains("longer than"), "{error}");
}

#[test]
fn an_invalid_value_is_rejected_with_its_key_and_source() {
    let error = error_text("key = 'a'\nlimit = 'many'");
    assert!(error.contains("limit in ") && error.contains("found a string, expected u32"), "{error}");
    let error = error_text("key = 'a'\nlimits = 3");
    assert!(error.contains("unknown field `limits`") && error.contains("key, limit"), "{error}");
    let error = error_text("limit = 3");
    assert!(error.contains("missing field `key`"), "{error}");
    let error = load::<Example>(Some(Path::new("/nowhere.toml"))).unwrap_err().to_string();
    assert!(error.contains("/nowhere.toml"), "{error}");
}

#[test]
fn no_error_repeats_a_value() {
    for text in [
        "key = 493827164938",
        "key = -493827164938",
        "key = 493827164938.5",
        "key = ['493827164938']",
        "key = { value = '493827164938' }",
        "key = 4938-27-16T00:00:00Z",
        "key = 493827164938'",
        "key = 'a'\nlimit = '493827164938'",
        "key = 'a'\nlimit = 493827164938",
        "key = 'a'\nlimit = ['493827164938']",
        "493827164938",
        "key = '493827164938",
    ] {
        let error = error_text(text);
        assert!(!error.contains("4938"), "{text}: {error}");
        assert!(error.contains("key") || error.contains("limit") || error.contains("line"), "{text}: {error}");
    }
    let error = error_text("key = 493827164938");
    assert!(error.contains("quote one"), "{error}");
    let error = error_text("key = true");
    assert!(error.contains("quote one"), "{error}");
}

#[test]
fn errors_of_other_decoders_do_not_repeat_a_secret() {
    for text in ["493827164938", "-493827164938", "0.493827164938", "[493827164938]", "true"] {
        let error = serde_json::from_str::<Secret>(text).unwrap_err().to_string();
        assert!(!error.contains("4938") && error.contains("string"), "{text}: {error}");
    }
}

#[test]
fn a_mistake_in_one_section_does_not_affect_another() {
    let file = written("[right]\nlimit = 3\n[wrong]\nlimit = 'many'\n");
    let source = Source::read(Some(file.path())).unwrap();
    assert_eq!(source.section::<Section>("right").unwrap().limit, 3);
    assert_eq!(source.section::<Section>("absent").unwrap().limit, 0);
    let error = source.section::<Section>("wrong").unwrap_err().to_string();
    assert!(error.contains("wrong.limit"), "{error}");
    let mut sections = source.sections().unwrap();
    sections.sort();
    assert_eq!(sections, ["right", "wrong"]);
}
