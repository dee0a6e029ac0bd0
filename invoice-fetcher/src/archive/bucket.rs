//! Opens buckets of Amazon S3 (and compatible stores), Google Cloud Storage and Azure.
//!
//! Region, endpoint and credentials are taken from `store_options`, otherwise from the environment, as in each vendor's own
//! tools. `store_options` have precedence: credentials in them are never combined with others from the environment.
//!
//! Amazon S3: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`; or `AWS_WEB_IDENTITY_TOKEN_FILE` and
//! `AWS_ROLE_ARN` (IAM roles for service accounts in EKS); or `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` (ECS tasks); or
//! `AWS_CONTAINER_CREDENTIALS_FULL_URI` and `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE` (EKS Pod Identity); or else the instance's
//! role (EC2, IMDSv2). `AWS_REGION` or `AWS_DEFAULT_REGION`, else `us-east-1`; `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` for
//! compatible stores. Profiles (`~/.aws`) are not read.
//!
//! Google Cloud Storage: `GOOGLE_SERVICE_ACCOUNT`, `GOOGLE_SERVICE_ACCOUNT_KEY`, `GOOGLE_APPLICATION_CREDENTIALS`, or else the
//! instance's account. Azure: `AZURE_STORAGE_ACCOUNT_NAME` with `AZURE_STORAGE_ACCOUNT_KEY`, with `AZURE_CLIENT_ID`,
//! `AZURE_TENANT_ID` and `AZURE_CLIENT_SECRET` or `AZURE_FEDERATED_TOKEN_FILE`, or else the managed identity
//! (`IDENTITY_ENDPOINT`).
//!
//! Permissions that the account needs on the bucket and everything under its prefix:
//! - Amazon S3: `s3:ListBucket` on the bucket; `s3:GetObject` and `s3:PutObject` on `invoices/*` and `staging/*`;
//!   `s3:DeleteObject` and `s3:AbortMultipartUpload` on `staging/*`, and the latter on `invoices/*` too. Without `ListBucket`
//!   S3 answers 403 for a missing key, and the archive cannot be checked before a download. With a customer-managed KMS key:
//!   `kms:GenerateDataKey` and `kms:Decrypt`. Object Lock and versioning can be used: nothing is overwritten, and only objects
//!   under `staging/` are deleted;
//! - Google Cloud Storage: the role Storage Object User; Azure: the role Storage Blob Data Contributor.
//!
//! Lifecycle rules that a bucket should have: abort incomplete multipart uploads after two days (this interface cannot list
//! them), and delete objects under `staging/` after seven (`sweep.rs` does so after a day while a fetcher runs).

use std::{fmt, str::FromStr, sync::Arc};

use object_store::{
    ObjectStore, ObjectStoreScheme,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    path::Path,
    prefix::PrefixStore,
};
use riverlock_runtime::ConfigError;

use crate::InvoiceFetcherConfig;

/// Environment variables that can configure a bucket. Empty values count as absent, as in the vendors' tools.
pub(crate) type Environment = Vec<(String, String)>;

/// The environment of this process.
pub(crate) fn environment() -> Environment {
    let texts =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    texts.filter(|(_, value)| !value.is_empty()).collect()
}

/// Opens a bucket from configuration and environment, without accessing it.
///
/// # Errors
/// When an option is invalid or a required one is missing.
pub(crate) fn open(
    config: &InvoiceFetcherConfig,
    environment: &Environment,
    scheme: &ObjectStoreScheme,
    prefix: Path,
) -> Result<Arc<dyn ObjectStore>, ConfigError> {
    let url = config.store.as_str();
    let failed = |error: object_store::Error| invalid(&error);
    Ok(match scheme {
        ObjectStoreScheme::GoogleCloudStorage => {
            let settings = settings(
                config,
                environment,
                &["GOOGLE_"],
                &[("SERVICE_ACCOUNT", "google_service_account")],
                google_credentials,
            )?;
            let builder = GoogleCloudStorageBuilder::new().with_url(url);
            let builder = settings.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value));
            Arc::new(PrefixStore::new(builder.build().map_err(failed)?, prefix))
        }
        ObjectStoreScheme::MicrosoftAzure => {
            let settings = settings(
                config,
                environment,
                &["AZURE_"],
                &[("IDENTITY_ENDPOINT", "identity_endpoint")],
                azure_credentials,
            )?;
            let builder = MicrosoftAzureBuilder::new().with_url(url);
            let builder = settings.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value));
            Arc::new(PrefixStore::new(builder.build().map_err(failed)?, prefix))
        }
        _ => {
            let settings = settings(config, environment, &["AWS_"], &[], amazon_credentials)?;
            // Amazon's method for a copy that requires a free key; other stores configure theirs in the options.
            let (key, value) = (AmazonS3ConfigKey::CopyIfNotExists, "multipart");
            let builder = AmazonS3Builder::new().with_url(url).with_config(key, value);
            let builder = settings.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value));
            Arc::new(PrefixStore::new(builder.build().map_err(failed)?, prefix))
        }
    })
}

/// Settings from the environment, followed by the options, which have precedence.
fn settings<K: FromStr>(
    config: &InvoiceFetcherConfig,
    environment: &Environment,
    prefixes: &[&str],
    others: &[(&str, &str)],
    is_credential: impl Fn(&K) -> bool,
) -> Result<Vec<(K, String)>, ConfigError> {
    let mut options = Vec::new();
    for (name, value) in &config.store_options {
        let key: K = name.parse().map_err(|_| unknown_option(name))?;
        options.push((key, value.read(&format!("invoice_fetcher.store_options.{name}"))?.to_owned()));
    }
    let has_credentials = options.iter().any(|(key, _)| is_credential(key));
    let setting = |(name, value): &(String, String)| {
        let other = others.iter().find(|(known, _)| known == name).map(|(_, key)| (*key).to_owned());
        let of_vendor = prefixes.iter().any(|prefix| name.starts_with(prefix)).then(|| name.to_ascii_lowercase());
        let key: K = other.or(of_vendor)?.parse().ok()?;
        (!(has_credentials && is_credential(&key))).then(|| (key, value.clone()))
    };
    let mut settings: Vec<(K, String)> = environment.iter().filter_map(setting).collect();
    settings.append(&mut options);
    Ok(settings)
}

fn amazon_credentials(key: &AmazonS3ConfigKey) -> bool {
    use AmazonS3ConfigKey as K;
    matches!(
        key,
        K::AccessKeyId
            | K::SecretAccessKey
            | K::Token
            | K::WebIdentityTokenFile
            | K::RoleArn
            | K::RoleSessionName
            | K::ContainerCredentialsRelativeUri
            | K::ContainerCredentialsFullUri
            | K::ContainerAuthorizationTokenFile
            | K::SkipSignature
    )
}

fn google_credentials(key: &GoogleConfigKey) -> bool {
    use GoogleConfigKey as K;
    matches!(key, K::ServiceAccount | K::ServiceAccountKey | K::ApplicationCredentials | K::SkipSignature)
}

fn azure_credentials(key: &AzureConfigKey) -> bool {
    use AzureConfigKey as K;
    matches!(
        key,
        K::AccessKey
            | K::SasKey
            | K::Token
            | K::ClientId
            | K::ClientSecret
            | K::AuthorityId
            | K::FederatedTokenFile
            | K::MsiEndpoint
            | K::SkipSignature
    )
}

pub(crate) fn unknown_option(key: &str) -> ConfigError {
    ConfigError::refused(
        format!("invoice_fetcher.store_options.{key}"),
        "is not an option of this kind of object store",
    )
}

fn invalid(reason: &dyn fmt::Display) -> ConfigError {
    ConfigError::refused("invoice_fetcher.store", reason.to_string())
}
