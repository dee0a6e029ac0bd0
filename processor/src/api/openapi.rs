//! The API's OpenAPI description, generated from the handlers and types.

use axum::Json;
use riverlock_runtime::api::ErrorBody;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        self,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Riverlock",
        description = "Orders and documents for the merchant's programs. Errors use Digital River's format.",
    ),
    servers((url = "http://127.0.0.1:8085", description = "`processor.api.listen`")),
    tags((name = "orders", description = "Orders as computed from Digital River's events")),
    paths(super::orders::list, super::orders::order, super::orders::events, super::shipments::list, super::shipments::create),
    components(schemas(ErrorBody)),
    modifiers(&Token),
)]
struct Description;

/// Adds the bearer token as the security scheme.
struct Token;

impl Modify for Token {
    fn modify(&self, description: &mut openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("`processor.api.token`"));
        let components = description.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme.build()));
    }
}

/// The description in OpenAPI 3.1.
#[must_use]
pub fn description() -> openapi::OpenApi {
    Description::openapi()
}

pub(super) const PATH: &str = "/v1/openapi.json";

pub(super) async fn serve() -> Json<openapi::OpenApi> {
    Json(description())
}
