//! `riverlock invoices`, as an operator types it.

use std::process::Output;

use riverlock_sandbox::{Api, Clock, SandboxConfig, pdf, serve};
use riverlock_schemas::hash::Sha256Hash;
use riverlock_tests::{Database, binary};
use serde_json::Value;
use tokio::{net::TcpListener, process::Command};

const STORED: &str = "6e5bf525-3907-40c5-86a9-f14ce4f33f34";
const GIVEN_UP: &str = "6e5bf525-3907-40c5-86a9-f14ce4f33f36";

/// A database, an archive and a Digital River, with one stored document and one that was given up.
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
            .env("TMPDIR", self.folder.path());
        command.output().await.unwrap()
    }

    /// What a command that succeeds prints.
    async fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.text(arguments).await).unwrap()
    }
}

#[tokio::test]
async fn documents_are_listed_shown_and_tried_again() {
    let desk = Desk::new().await;
    let list = desk.json(&["list", "--json", "--order", "o-1"]).await;
    assert_eq!(list.as_array().unwrap().len(), 2);
    let text = desk.text(&["list", "--state", "discarded"]).await;
    assert!(text.contains(GIVEN_UP) && !text.contains(STORED) && text.contains("not_found: 404"), "{text}");
    assert!(desk.text(&["list", "--older", "1h"]).await.starts_with("0 documents"));
    let missing = desk.json(&["list", "--missing", "--json"]).await;
    assert_eq!((missing[0]["orderId"].as_str(), missing[0]["announced"].as_i64()), (Some("o-2"), Some(0)));

    let retry = ["retry", "--reason", "not_found", "--why", "it is there now"];
    assert!(desk.text(&retry).await.contains("1 documents would be tried again; --apply does it"));
    let show = ["show", GIVEN_UP, "--json"];
    assert_eq!(desk.json(&show).await["state"], "discarded");
    desk.text(&[&retry[..], &["--apply"]].concat()).await;
    let shown = desk.json(&show).await;
    assert_eq!((shown["state"].as_str(), shown["attempts"].as_i64()), (Some("due"), Some(0)));
    assert_eq!(
        (shown["retries"][0]["retriedBy"].as_str(), shown["retries"][0]["attempts"].as_i64()),
        (Some("ada"), Some(9))
    );

    assert!(!desk.run(&["retry", STORED, "--why", "x", "--apply"]).await.status.success(), "it is stored");
    assert!(!desk.run(&["retry", "--why", "x", "--apply"]).await.status.success(), "everything must be meant");
    assert!(!desk.run(&["show", "../../etc/passwd"]).await.status.success());
}

#[tokio::test]
async fn a_copy_is_what_was_stored_or_there_is_none() {
    let desk = Desk::new().await;
    let expected = pdf::invoice_pdf(STORED);
    assert_eq!(desk.run(&["fetch", STORED, "--output", "-"]).await.stdout, expected);
    let copy = desk.folder.path().join("copy.pdf");
    let fetch = ["fetch", STORED, "--output", copy.to_str().unwrap()];
    desk.text(&fetch).await;
    assert_eq!(std::fs::read(&copy).unwrap(), expected);
    assert!(!desk.run(&fetch).await.status.success(), "a file that is there stays");
    desk.text(&[&fetch[..], &["--force"]].concat()).await;
    let opened = desk.text(&["open", STORED]).await;
    let path = opened.trim().rsplit(' ').next().unwrap();
    assert_eq!(std::fs::read(path).unwrap(), expected, "{opened}");

    std::fs::remove_file(&copy).unwrap();
    std::fs::write(desk.document(), "something else").unwrap();
    let output = desk.run(&fetch).await;
    assert!(!output.status.success() && !copy.exists());
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not what was stored"));
    assert!(desk.run(&["fetch", STORED, "--output", "-"]).await.stdout.is_empty());
    assert!(!desk.run(&["fetch", GIVEN_UP]).await.status.success(), "it is not stored");
}

#[tokio::test]
async fn a_customer_gets_a_link_that_needs_no_key() {
    let desk = Desk::new().await;
    let url = desk.text(&["link", STORED, "--expires", "2h"]).await;
    assert!(url.contains("/links/") && !url.contains("/content"), "{url}");
    let link = desk.json(&["link", STORED, "--json"]).await;
    assert!(link["expiresTime"].is_string());
    assert!(!desk.run(&["link", STORED, "--expires", "500d"]).await.status.success());
    assert!(!desk.run(&["link", "6e5bf525-3907-40c5-86a9-f14ce4f33f38"]).await.status.success(), "never announced");
}
