//! The content of files.

use axum::{
    http::header,
    response::{IntoResponse as _, Response},
};
use uuid::Uuid;

use crate::data::pdf::invoice_pdf;

/// A file's bytes, as a PDF.
pub(super) fn pdf(id: Uuid) -> Response {
    ([(header::CONTENT_TYPE, "application/pdf")], invoice_pdf(&id.to_string())).into_response()
}
