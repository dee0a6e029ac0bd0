//! The commands `riverlock invoices`.

use std::process::Output;

use riverlock_sandbox::{Api, Clock, SandboxConfig, data::pdf, serve};
use riverlock_schemas::hash::Sha256Hash;
use riverlock_tests::{Database, binary};
use serde_json::Value;
use tokio::{net::TcpListener, process::Command};

use crate::harness::raw::{Raw, event, execute, value};

const STORED: &str = "6e5bf525-3907-40c5-86a9-f14ce4f33f34";
const GIVEN_UP: &str = "6e5bf525-3907-40c5-86a9-f14ce4f33f36";

/// A database, an archive and the sandbox, with one stored and one discarded document.
struct Desk {
    folder: tempfile::TempDir,
    _database: Database,
}

impl Desk {
    #[expect(clippy::disallowed_methods, reason = "the sandbox ends with the test")]
    async fn new() -> Self {
        let (database, folder) = (Database::create().await.unwrap(), tempfile::tempdir().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sandbox = listener.local_addr().unwrap();
        let api = Api::new(&SandboxConfig::default(), Clock::system());
        tokio::spawn(serve(listener, api, std::future::pending()));
        let config = format!(
            "[postgres]\nurl = '{}'\n[invoice_fetcher]\napi_base_url = 'http://{sandbox}'\nstore = 'file://{}'\n\
             [invoice_fetcher.test]\napi_key = 'sandbox-confidential-key'\n",
            database.config.url.expose(),
            folder.path().display(),
        );
        std::fs::write(folder.path().join("riverlock.toml"), config).unwrap();
        let desk = Self { folder, _database: database };
        let document = pdf::invoice_pdf(STORED);
        std::fs::create_dir_all(desk.document().parent().unwrap()).unwrap();
        std::fs::write(desk.document(), &document).unwrap();
        let mut connection = desk._database.connect().await.unwrap();
        sqlx::query(
            "INSERT INTO invoices (file_id, order_id, live_mode, purpose, event_id, state, attempts, object_key, sha256,
                                   size_bytes, last_error, ended_at)
             VALUES ($1::uuid, 'o-1', false, 'invoice', 'e-1', 'stored', 1, $2, $3, $4, NULL, now()),
                    ($5::uuid, 'o-1', false, 'invoice', 'e-2', 'discarded', 9, NULL, NULL, NULL, 'not_found: 404', now())",
        )
        .bind(STORED)
        .bind(format!("invoices/test/{STORED}.pdf"))
        .bind(Sha256Hash::of(&document).as_bytes().as_slice())
        .bind(i64::try_from(document.len()).unwrap())
        .bind(GIVEN_UP)
        .execute(&mut connection)
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO orders (order_id, live_mode, version, status, seen, complete_at, unknown_states, conflicted,
                                 snapshot_event_id, details, lines)
             VALUES ('o-2', false, 1, 'complete', '{}', now() - interval '2 days', '{}', false, 'e',
                     '{\"totalAmount\": \"27.10\", \"currency\": \"EUR\"}', '{}')",
        )
        .execute(&mut connection)
        .await
        .unwrap();
        desk
    }

    fn document(&self) -> std::path::PathBuf {
        self.folder.path().join(format!("invoices/test/{STORED}.pdf"))
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary().unwrap());
        command.arg("--config").arg(self.folder.path().join("riverlock.toml")).arg("invoices").args(arguments);
        command
            .env("USER", "ada")
            .env_remove("DISPLAY")
            .env_remove("WAYLAND_DISPLAY")
            .env_remove("XDG_RUNTIME_DIR")
            .env("TMPDIR", self.folder.path());
        command.output().await.unwrap()
    }

    /// Runs a command that must succeed; returns its output.
    async fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.text(arguments).await).unwrap()
    }

    /// Runs a command that must end with this code; returns its output.
    async fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        text
    }

    async fn execute(&self, statement: &'static str) {
        let mut connection = self._database.connect().await.unwrap();
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
}

#[tokio::test]
async fn documents_are_listed_shown_and_retried() {
    let desk = Desk::new().await;
    let list = desk.json(&["list", "--json", "--order", "o-1"]).await;
    assert_eq!((list["items"].as_array().unwrap().len(), &list["next"]), (2, &Value::Null));
    let text = desk.text(&["list", "--state", "discarded"]).await;
    assert!(text.contains(GIVEN_UP) && !text.contains(STORED) && text.contains("not_found: 404"), "{text}");
    assert!(desk.text(&["list", "--until", "1h"]).await.is_empty());
    assert_eq!(desk.text(&["list", "--since", "1h"]).await.lines().count(), 2);
    let missing = desk.json(&["list", "--missing", "--json"]).await;
    let first = &missing["items"][0];
    assert_eq!((first["orderId"].as_str(), first["announced"].as_i64()), (Some("o-2"), Some(0)));

    let retry = ["retry", "--error", "not_found"];
    assert!(desk.text(&retry).await.contains("1 document would be retried; apply with --apply --reason TEXT"));
    let show = ["show", GIVEN_UP, "--json"];
    assert_eq!(desk.json(&show).await["state"], "discarded");
    desk.fails(2, &[&retry[..], &["--apply"]].concat()).await;
    desk.text(&[&retry[..], &["--reason", "it is there now", "--apply"]].concat()).await;
    let shown = desk.json(&show).await;
    assert_eq!((shown["state"].as_str(), shown["attempts"].as_i64()), (Some("due"), Some(0)));
    assert_eq!(
        (shown["retries"][0]["retriedBy"].as_str(), shown["retries"][0]["attempts"].as_i64()),
        (Some("ada"), Some(9))
    );

    desk.fails(1, &["retry", STORED, "--reason", "x", "--apply"]).await;
    desk.fails(2, &["retry", "--state", "stored", "--reason", "x", "--apply"]).await;
    desk.fails(2, &["retry", "--reason", "x", "--apply"]).await;
    desk.fails(2, &["show", "../../etc/passwd"]).await;
    desk.fails(1, &["show", "6e5bf525-3907-40c5-86a9-f14ce4f33f38"]).await;
    let spelled_otherwise = format!("file_{}", GIVEN_UP.replace('-', "").to_uppercase());
    assert_eq!(desk.json(&["show", &spelled_otherwise, "--json"]).await["fileId"], GIVEN_UP);
}

#[tokio::test]
async fn lists_are_paged() {
    let desk = Desk::new().await;
    desk.execute(
        "INSERT INTO invoices (file_id, order_id, live_mode, purpose, event_id)
         SELECT gen_random_uuid(), 'o-3', n % 2 = 0, 'invoice', 'e-3-' || n FROM generate_series(1, 20) AS n",
    )
    .await;
    desk.execute(
        "INSERT INTO orders (order_id, live_mode, version, status, seen, complete_at, unknown_states, conflicted,
                             snapshot_event_id, details, lines)
         SELECT 'more-' || n / 2, n % 2 = 0, 1, 'complete', '{}', now() - interval '3 days', '{}', false, 'e', '{}', '{}'
         FROM generate_series(1, 20) AS n",
    )
    .await;
    for (which, expected) in [(&["list"][..], 22), (&["list", "--missing"], 21), (&["list", "--mode", "live"], 10)] {
        let (mut found, mut after) = (Vec::new(), None::<String>);
        loop {
            let mut arguments = [which, &["--json", "--limit", "7"]].concat();
            if let Some(after) = &after {
                arguments.extend(["--after", after]);
            }
            let page = desk.json(&arguments).await;
            found.extend(page["items"].as_array().unwrap().iter().map(ToString::to_string));
            let Some(next) = page["next"].as_str() else { break };
            after = Some(next.to_owned());
        }
        assert_eq!(found.len(), expected, "{which:?}");
        found.sort();
        found.dedup();
        assert_eq!(found.len(), expected, "{which:?}: each document once");
    }
    desk.fails(2, &["list", "--after", "yesterday"]).await;

    // Only test data has an account.
    let waiting = desk.json(&["list", "--waiting-account", "--json"]).await;
    let waiting = waiting["items"].as_array().unwrap();
    assert!(waiting.len() == 10 && waiting.iter().all(|document| document["liveMode"] == true), "{waiting:?}");
}

#[tokio::test]
async fn lost_documents_are_found_and_fetched_again() {
    let desk = Desk::new().await;
    assert!(desk.text(&["verify"]).await.contains("1 document read and hashed: 0 lost, 0 changed"));
    std::fs::write(desk.document(), "something else").unwrap();
    let text = desk.fails(1, &["verify"]).await;
    assert!(text.contains(STORED) && text.contains("changed") && text.contains("--requeue --apply"), "{text}");

    std::fs::remove_file(desk.document()).unwrap();
    let lines = desk.fails(1, &["verify", "--json"]).await;
    let lines: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!((lines[0]["fileId"].as_str(), lines[0]["kind"].as_str()), (Some(STORED), Some("lost")));
    assert_eq!((lines[1]["checked"].as_i64(), lines[1]["lost"].as_i64()), (Some(1), Some(1)));
    let text = desk.fails(1, &["fetch", STORED]).await;
    assert!(text.contains("invoices verify"), "{text}");

    assert!(desk.fails(1, &["verify", "--requeue"]).await.contains("1 would be queued for download"));
    assert_eq!(desk.json(&["show", STORED, "--json"]).await["state"], "stored");
    desk.fails(2, &["verify", "--apply"]).await;
    assert!(desk.fails(1, &["verify", "--requeue", "--apply"]).await.contains("1 queued for download"));
    let shown = desk.json(&["show", STORED, "--json"]).await;
    assert_eq!((shown["state"].as_str(), shown["retries"][0]["retriedBy"].as_str()), (Some("due"), Some("ada")));
    assert!(desk.text(&["list", "--error", "lost"]).await.contains(STORED));
    assert!(desk.text(&["verify"]).await.contains("0 documents"));
}

#[tokio::test]
async fn an_unreachable_archive_is_reported_as_unchecked() {
    let desk = Desk::new().await;
    std::fs::remove_dir_all(desk.folder.path().join("invoices/test")).unwrap();
    std::fs::write(desk.folder.path().join("invoices/test"), "").unwrap();
    desk.fails(3, &["verify"]).await;
}

#[tokio::test]
async fn documents_that_an_earlier_version_ignored_are_queued_on_request() {
    let raw = Raw::new().await;
    let announced = |number: u32, live: bool| {
        let object = format!(r#"{{"fileId":"6e5bf525-3907-40c5-86a9-f14ce4f3{number:04}","orderId":"o-{number}"}}"#);
        let body = event(&format!("e-{number}"), "order.invoice.created", &object);
        String::from_utf8(body).unwrap().replace(r#""liveMode":false"#, &format!(r#""liveMode":{live}"#)).into_bytes()
    };
    raw.take((0..12).map(|number| announced(number, number % 3 > 0)).collect()).await;
    let mut connection = raw.database.connect().await.unwrap();
    let waiting = "SELECT count(*) FROM invoices WHERE live_mode AND state = 'due'";
    assert_eq!(value::<i64>(&mut connection, waiting).await, 8, "new events wait for an account");

    // The state that an earlier version left.
    execute(
        &mut connection,
        "WITH mode AS (INSERT INTO event_reasons (name) VALUES ('mode') RETURNING reason_id)
         UPDATE events SET outcome_code = 'i', reason_id = mode.reason_id FROM mode WHERE mode_code = 'l'",
    )
    .await;
    execute(&mut connection, "DELETE FROM invoices WHERE live_mode").await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("riverlock.toml");
    let text = format!(
        "[postgres]\nurl = '{}'\n[kafka]\nbrokers = '{}'\npartitions = {}\n",
        raw.database.config.url.expose(),
        raw.kafka.brokers,
        raw.kafka.partitions
    );
    std::fs::write(&config, text).unwrap();
    let run = async |more: &[&str]| {
        let mut command = Command::new(binary().unwrap());
        command.arg("--config").arg(&config).args(["invoices", "queue-ignored", "--json"]).args(more);
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let dry = run(&[]).await;
    assert_eq!((dry["ignored"].as_i64(), dry["queued"].as_i64(), dry["gone"].as_i64()), (Some(8), Some(8), Some(0)));
    assert_eq!(value::<i64>(&mut connection, waiting).await, 0, "a dry run changes nothing");
    assert_eq!(run(&["--apply", "--reason", "an account at last"]).await["queued"], 8);
    assert_eq!(value::<i64>(&mut connection, waiting).await, 8);
    let outcomes = "SELECT string_agg(DISTINCT outcome || coalesce(reason, ''), ' ') FROM event_records";
    assert_eq!(value::<String>(&mut connection, outcomes).await, "applied");
    assert_eq!(run(&["--apply", "--reason", "again"]).await["ignored"], 0);
}

#[tokio::test]
async fn an_operator_is_recorded_even_without_a_user_in_the_environment() {
    let desk = Desk::new().await;
    let mut command = Command::new(binary().unwrap());
    command.arg("--config").arg(desk.folder.path().join("riverlock.toml"));
    command
        .args(["invoices", "retry", GIVEN_UP, "--reason", "x", "--apply"])
        .env_remove("USER")
        .env_remove("SUDO_USER");
    assert!(command.output().await.unwrap().status.success());
    let shown = desk.json(&["show", GIVEN_UP, "--json"]).await;
    assert!(!shown["retries"][0]["retriedBy"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn a_copy_is_written_only_if_it_has_the_stored_hash() {
    let desk = Desk::new().await;
    let expected = pdf::invoice_pdf(STORED);
    assert_eq!(desk.run(&["fetch", STORED, "--output", "-"]).await.stdout, expected);
    let copy = desk.folder.path().join("copy.pdf");
    let fetch = ["fetch", STORED, "--output", copy.to_str().unwrap()];
    desk.text(&fetch).await;
    assert_eq!(std::fs::read(&copy).unwrap(), expected);
    assert!(!desk.run(&fetch).await.status.success(), "an existing file is not overwritten");
    desk.text(&[&fetch[..], &["--force"]].concat()).await;
    let opened = desk.text(&["open", STORED]).await;
    let path = opened.trim().rsplit(' ').next().unwrap();
    assert_eq!(std::fs::read(path).unwrap(), expected, "{opened}");
    // A copy with other content replaces the old one.
    let yesterday = std::time::SystemTime::UNIX_EPOCH;
    std::fs::File::options().append(true).open(path).unwrap().set_modified(yesterday).unwrap();
    let opened = desk.json(&["open", STORED, "--json"]).await;
    assert!(!std::path::Path::new(path).exists() && std::path::Path::new(opened["path"].as_str().unwrap()).exists());

    std::fs::remove_file(&copy).unwrap();
    std::fs::write(desk.document(), "something else").unwrap();
    let output = desk.run(&fetch).await;
    assert!(!output.status.success() && !copy.exists());
    assert!(String::from_utf8_lossy(&output.stderr).contains("has changed since it was stored"));
    assert!(desk.run(&["fetch", STORED, "--output", "-"]).await.stdout.is_empty());
    assert!(!desk.run(&["fetch", GIVEN_UP]).await.status.success(), "it is not stored");
}

#[tokio::test]
async fn links_for_customers_need_no_key() {
    let desk = Desk::new().await;
    let url = desk.text(&["link", STORED, "--expires", "2h"]).await;
    assert!(url.contains("/links/") && !url.contains("/content"), "{url}");
    let link = desk.json(&["link", STORED, "--json"]).await;
    assert!(link["expiresTime"].is_string());
    assert!(!desk.run(&["link", STORED, "--expires", "500d"]).await.status.success());
    assert!(!desk.run(&["link", "6e5bf525-3907-40c5-86a9-f14ce4f33f38"]).await.status.success(), "never announced");
}
