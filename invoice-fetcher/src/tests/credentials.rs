//! Credentials for a bucket from the same sources as in the vendors' tools: the environment, and services named in it.

use std::sync::{Arc, Mutex};

use axum::{Json, Router, extract::Request, response::IntoResponse as _};
use object_store::{ObjectStore, ObjectStoreExt as _, ObjectStoreScheme, path::Path};
use riverlock_runtime::Secret;
use serde_json::json;
use tokio::net::TcpListener;
use url::Url;

use super::s3::{BUCKET, KEY_ID, SECRET, Server};
use crate::{InvoiceFetcherConfig, archive::bucket};

/// A local service that returns the bucket's credentials and records its requests.
struct Metadata {
    base: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Metadata {
    #[expect(clippy::disallowed_methods, reason = "the service ends with the test")]
    async fn start() -> Self {
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&requests);
        let answer = move |request: Request| {
            let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
            seen.lock().unwrap().push(format!("{method} {path}"));
            let answer = match path.as_str() {
                "/latest/api/token" => "token".into_response(),
                "/latest/meta-data/iam/security-credentials/" => "role".into_response(),
                _ => Json(json!({
                    "Code": "Success", "AccessKeyId": KEY_ID, "SecretAccessKey": SECRET, "Token": "session",
                    "Expiration": "2999-01-01T00:00:00Z",
                }))
                .into_response(),
            };
            std::future::ready(answer)
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        Self { base, requests }
    }
}

fn open(
    server: &Server,
    options: &[(&str, &str)],
    environment: &[(&str, &str)],
) -> Result<Arc<dyn ObjectStore>, riverlock_runtime::ConfigError> {
    let mut config =
        InvoiceFetcherConfig { store: Url::parse(&format!("s3://{BUCKET}")).unwrap(), ..Default::default() };
    config.store_options = options.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect();
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    let always =
        [("AWS_ENDPOINT_URL_S3", endpoint.as_str()), ("AWS_ALLOW_HTTP", "true"), ("AWS_REGION", "eu-central-1")];
    let all = always.iter().chain(environment).filter(|(_, value)| !value.is_empty());
    let environment = all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    bucket::open(&config, &environment, &ObjectStoreScheme::AmazonS3, Path::default())
}

async fn works(store: &dyn ObjectStore) -> Result<(), object_store::Error> {
    let key = Path::from("x");
    store.put(&key, "document".into()).await?;
    store.get(&key).await?.bytes().await.map(drop)
}

#[tokio::test]
async fn environment_keys_open_a_bucket_and_options_have_precedence() {
    let server = Server::start().await;
    let right = [("AWS_ACCESS_KEY_ID", KEY_ID), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    works(&*open(&server, &[], &right).unwrap()).await.unwrap();
    let wrong = [("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "y"), ("AWS_SESSION_TOKEN", "z")];
    assert!(works(&*open(&server, &[], &wrong).unwrap()).await.is_err());
    let options = [("aws_access_key_id", KEY_ID), ("aws_secret_access_key", SECRET)];
    works(&*open(&server, &options, &wrong).unwrap()).await.unwrap();
    assert!(open(&server, &[], &[("AWS_ACCESS_KEY_ID", KEY_ID)]).is_err(), "incomplete credentials");
}

#[tokio::test]
async fn the_role_of_an_instance_or_container_opens_a_bucket() {
    let (server, metadata, folder) = (Server::start().await, Metadata::start().await, tempfile::tempdir().unwrap());
    let token = folder.path().join("token");
    std::fs::write(&token, "canary").unwrap();
    let full_uri = format!("{}/v1/credentials", metadata.base);
    // Empty variables, as from a compose file, count as absent.
    let unset = [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")];
    for (environment, path) in [
        (
            vec![("AWS_METADATA_ENDPOINT", metadata.base.as_str())],
            "GET /latest/meta-data/iam/security-credentials/role",
        ),
        (
            vec![
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", full_uri.as_str()),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.to_str().unwrap()),
            ],
            "GET /v1/credentials",
        ),
    ] {
        works(&*open(&server, &[], &[&unset[..], &environment].concat()).unwrap()).await.unwrap();
        let seen = metadata.requests.lock().unwrap().clone();
        assert!(seen.contains(&path.to_owned()), "{seen:?}");
    }
}

#[tokio::test]
async fn a_web_identity_is_exchanged_for_credentials() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    let token = folder.path().join("token");
    std::fs::write(&token, "canary").unwrap();
    // The exchange requires TLS, so a plain listener only shows that it is contacted.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    let environment = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/riverlock"),
        ("AWS_ENDPOINT_URL_STS", endpoint.as_str()),
    ];
    let store = open(&server, &[], &environment).unwrap();
    tokio::select! {
        connection = listener.accept() => drop(connection.unwrap()),
        result = works(&*store) => panic!("{result:?}"),
    }
}
