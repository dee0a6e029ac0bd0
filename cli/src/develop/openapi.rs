//! `riverlock openapi`: the OpenAPI document of the services' APIs.

use std::process::ExitCode;

use utoipa::openapi::Server;

use crate::out;

pub(crate) fn run() -> anyhow::Result<ExitCode> {
    out::print(&document()?);
    Ok(ExitCode::SUCCESS)
}

/// Both APIs; each path names the server of its service.
fn document() -> serde_json::Result<String> {
    let mut both = riverlock_processor::api::openapi::description();
    let mut documents = riverlock_invoice_fetcher::api::description();
    for description in [&mut both, &mut documents] {
        let servers: Option<Vec<Server>> = description.servers.take();
        for item in description.paths.paths.values_mut() {
            item.servers.clone_from(&servers);
        }
    }
    both.merge(documents);
    Ok(format!("{}\n", both.to_pretty_json()?))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_committed_document_is_that_of_the_code() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
        let checked_in = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            checked_in == document().unwrap(),
            "docs/openapi.json is outdated; write it with \
             cargo run -p riverlock -- openapi > docs/openapi.json"
        );
    }

    #[test]
    fn every_path_requires_the_token_and_documents_the_rejection() {
        let both: serde_json::Value = serde_json::from_str(&document().unwrap()).unwrap();
        assert!(both["openapi"].as_str().unwrap().starts_with("3.1"));
        let paths = both["paths"].as_object().unwrap();
        for path in [
            "/v1/orders",
            "/v1/orders/{orderId}",
            "/v1/orders/{orderId}/events",
            "/v1/orders/{orderId}/invoices",
            "/v1/invoices/{fileId}",
        ] {
            let operation = &paths[path]["get"];
            assert_eq!(operation["security"][0], serde_json::json!({"token": []}), "{path}");
            assert!(operation["responses"]["401"].is_object() && paths[path]["servers"][0].is_object(), "{path}");
        }
        assert!(paths["/v1/orders/{orderId}/shipments"]["post"].is_object());
        assert_eq!(paths.len(), 6);
        // Every reference exists.
        let text = both.to_string();
        for (at, reference) in text.match_indices("#/components/schemas/") {
            let name: String = text[at + reference.len()..].chars().take_while(|c| c.is_alphanumeric()).collect();
            assert!(both["components"]["schemas"][&name].is_object(), "{name}");
        }
        assert!(!text.contains("shipTo"));
    }
}
