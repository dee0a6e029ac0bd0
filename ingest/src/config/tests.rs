use std::io::Write;

use super::*;

const GOOD: &str =
    "[[endpoints]]\nname = 'main'\npath = '/webhooks'\n[[endpoints.secrets]]\nid = 'a'\nsecret = '0123456789abcdef'\n";

const BASIC: &str = "[[endpoints]]\nname = 'b'\npath = '/b'\n[endpoints.basic]\n";
const OAUTH: &str = "[[endpoints]]\nname = 'b'\npath = '/b'\n[[endpoints.oauth]]\n";
const KEY: &str = "[oauth]\ntoken_keys = ['0123456789abcdef0123456789abcdef']\n";

fn load(text: &str) -> Result<IngestConfig, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let config: IngestConfig = riverlock_runtime::config::load(Some(file.path()))?;
    config.validate().map(|()| config)
}

#[test]
fn a_minimal_configuration_is_valid() {
    let config = load(GOOD).unwrap();
    let endpoint = &config.endpoints[0];
    assert_eq!((endpoint.mode, endpoint.tolerance.as_secs(), endpoint.insecure), (EndpointMode::Both, 300, false));
    assert_eq!((config.limits.body_bytes_max, config.limits.answer_deadline.as_millis()), (4 << 20, 2_500));
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
    assert!(!serde_json::to_string(&config).unwrap().contains("0123456789abcdef"));
}

#[test]
fn every_setting_can_be_configured() {
    let config = load(&format!(
        "listen = '[::1]:0'\n[limits]\nanswer_deadline = '500ms'\nbody_read_timeout = '200ms'\n{GOOD}not_before = 2025-01-01T00:00:00Z\nexpires_at = '2025-01-02T00:00:00Z'\n[[endpoints]]\nname = 'open'\npath = '/'\nmode = 'test'\ntolerance = '0s'\ninsecure = true\n",
    ))
    .unwrap();
    assert_eq!(config.endpoints[1].mode, EndpointMode::Test);
    assert!(config.endpoints[0].secrets[0].expires_at > config.endpoints[0].secrets[0].not_before);
}

#[test]
fn invalid_settings_are_rejected_with_their_key() {
    let endpoint = |more: &str| format!("[[endpoints]]\nname = 'b'\n{more}");
    let secrets = |n: usize| {
        (0..n).fold("[[endpoints]]\nname = 'b'\npath = '/b'\n".to_owned(), |text, i| {
            format!("{text}[[endpoints.secrets]]\nid = 's{i}'\nsecret = '0123456789abcdef'\n")
        })
    };
    for (text, expected) in [
        (String::new(), "ingest.endpoints: is empty"),
        (endpoint("path = 'b'"), "ingest.endpoints[0].path: `b` must begin with a slash"),
        (endpoint("path = '/b?c'"), "ingest.endpoints[0].path"),
        (endpoint("path = '/b'"), "ingest.endpoints[0].secrets: is empty"),
        (endpoint("path = '/b'\nsecret = 'x'"), "unknown field"),
        (GOOD.replace("main", "Main"), "ingest.endpoints[0].name"),
        (GOOD.replace("main", "none"), "ingest.endpoints[0].name"),
        (format!("{GOOD}{GOOD}"), "ingest.endpoints[1].name: `main` is already used"),
        (format!("{GOOD}{}", GOOD.replace("main", "b").replace("/webhooks", "/webhooks/")), "endpoints[1].path"),
        (GOOD.replace("0123456789abcdef", ""), "endpoints[0].secrets[0].secret: is empty"),
        (GOOD.replace("0123456789abcdef", "                    "), "secrets[0].secret: is empty"),
        (GOOD.replace("0123456789abcdef", " 0123456789abcdef"), "white space"),
        (GOOD.replace("0123456789abcdef", "0123456789abcde"), "fewer than 16"),
        (GOOD.replace("'a'", "'A b'"), "secrets[0].id"),
        (format!("{GOOD}expires_at = '2025-01-01T00:00:00Z'\nnot_before = '2025-01-01T00:00:00Z'"), "expires_at"),
        (format!("{GOOD}[[endpoints.secrets]]\nid = 'a'\nsecret = '0123456789abcdef'"), "secrets[1].id"),
        (format!("{GOOD}expires_at = '2025-01-01'"), "`2025-01-01` is not a time with its zone"),
        (format!("{GOOD}expires_at = 2025"), "expected a time with its zone"),
        (secrets(6), "secrets: has 6"),
        (GOOD.replace("path", "insecure = true\npath"), "endpoints[0].insecure"),
        (format!("[limits]\nanswer_deadline = '3s'\n{GOOD}"), "limits.answer_deadline: is 3s"),
        (format!("[limits]\nin_flight_max = 0\n{GOOD}"), "limits.in_flight_max"),
        (format!("[limits]\nbody_bytes_max = 4194305\n{GOOD}"), "limits.body_bytes_max"),
        (format!("[limits]\nin_flight_bytes_max = 1048576\n{GOOD}"), "limits.in_flight_bytes_max"),
        (format!("[limits]\nreading_bytes_max = 1048576\n{GOOD}"), "limits.reading_bytes_max"),
        (format!("[limits]\nin_flight_partition_max = 2000\n{GOOD}"), "limits.in_flight_partition_max"),
        (format!("[limits]\nknown_reserved_percent = 91\n{GOOD}"), "limits.known_reserved_percent"),
        (format!("[limits]\nidle_timeout = '10ms'\n{GOOD}"), "limits.idle_timeout"),
        (format!("[limits]\nshutdown_delay = '16s'\n{GOOD}"), "limits.shutdown_delay"),
        (GOOD.replace("path =", "tolerance = '500us'\npath ="), "endpoints[0].tolerance: is 500"),
        (GOOD.replace("path =", "tolerance = '25h'\npath ="), "endpoints[0].tolerance"),
        (GOOD.replace("/webhooks", "/webhooks//x"), "endpoints[0].path: `/webhooks//x` has two consecutive slashes"),
        (format!("[limits]\nbody_read_timeout = '2600ms'\n{GOOD}"), "limits.body_read_timeout"),
    ] {
        assert_rejected(&text, expected);
    }
    assert!(load(&secrets(5)).is_ok());
}

#[test]
fn invalid_credentials_addresses_and_tls_are_rejected_with_their_key() {
    for (text, expected) in [
        (
            GOOD.replace("path", "insecure = true\npath")
                .replace("[[endpoints.secrets]]\nid = 'a'\nsecret", "[endpoints.basic]\nusername = 'u'\npassword"),
            "endpoints[0].insecure",
        ),
        (format!("{BASIC}username = 'a:b'\npassword = 'long enough, this'"), "endpoints[0].basic.username: must be"),
        (format!("{BASIC}username = 'a'\npassword = 'short'"), "endpoints[0].basic.password: has fewer than 12"),
        (format!("{BASIC}username = 'a'"), "missing field `password`"),
        (format!("{OAUTH}client_id = 'c'\nclient_secret = '0123456789abcdef'"), "ingest.oauth.token_keys: is empty"),
        (format!("[oauth]\ntoken_keys = ['short']\n{GOOD}"), "oauth.token_keys[0]: has fewer than 32"),
        (format!("[oauth]\ntoken_ttl = '1s'\n{GOOD}"), "oauth.token_ttl: is 1s"),
        (format!("{KEY}{OAUTH}client_id = 'c'\nclient_secret = 'short'"), "oauth[0].client_secret: must be 16"),
        (format!("{KEY}{OAUTH}client_id = 'c d'\nclient_secret = '0123456789abcdef'"), "oauth[0].client_id"),
        (
            format!("{KEY}{OAUTH}client_id = 'c'\nclient_secret = '0123456789abcdef'\nusername = 'u'"),
            "oauth[0].password: is missing",
        ),
        (
            format!(
                "{KEY}{OAUTH}client_id = 'c'\nclient_secret = '0123456789abcdef'\n[[endpoints.oauth]]\nclient_id = 'c'\nclient_secret = '0123456789abcdef'"
            ),
            "oauth[1].client_id: `c` is already used",
        ),
        (
            format!(
                "{KEY}{OAUTH}client_id = 'c'\nclient_secret = '0123456789abcdef'\n[endpoints.basic]\nusername = 'a'\npassword = 'long enough, this'"
            ),
            "cannot be combined with basic",
        ),
        (GOOD.replace("/webhooks", "/oauth2/token/"), "endpoints[0].path: `/oauth2/token/` is the path"),
        (format!("[quarantine]\nbytes_per_second = 1\n{GOOD}"), "ingest.quarantine.bytes_per_second: is 1"),
        (format!("allow = ['nowhere']\n{GOOD}"), "`nowhere` is not an address"),
        (format!("trusted_proxies = ['10.0.0.0/99']\n{GOOD}"), "`10.0.0.0/99` is not an address"),
        (format!("[tls]\ncertificate = 'x'\n{GOOD}"), "missing field `key`"),
        (format!("reload_interval = '1ms'\n{GOOD}"), "ingest.reload_interval"),
    ] {
        assert_rejected(&text, expected);
    }
}

fn assert_rejected(text: &str, expected: &str) {
    let error = load(text).expect_err(text).to_string();
    assert!(error.contains(expected), "{error} does not contain {expected}");
    assert!(!error.contains("0123456789"), "{error}");
}
