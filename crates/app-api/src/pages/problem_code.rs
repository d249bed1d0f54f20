//! The page about one problem code: what it means and what to do, for the link in an error.

use askama::Template;
use axum::extract::RawPathParams;
use axum::extract::rejection::RawPathParamsRejection;
use axum::http::StatusCode;
use axum::response::Response;
use protocol::problem::{Code, reason_phrase};
use service::api_error::ApiError;

use super::{Layout, page};
use crate::http::extract::path_part;

#[derive(Template)]
#[template(path = "problem_code.html")]
struct CodePage {
    layout: Layout,
    code: Code,
    statuses: String,
    remedy: Option<String>,
}

pub async fn show_code(
    params: Result<RawPathParams, RawPathParamsRejection>,
) -> Result<Response, ApiError> {
    let params = params.as_ref().ok();
    let code = params.and_then(|params| path_part(params, "code")).and_then(Code::parse);
    let code =
        code.ok_or_else(|| ApiError::new(Code::NotFound, "There is no problem of this code."))?;
    let statuses =
        code.statuses().iter().map(|status| format!("{status} {}", reason_phrase(*status)));
    let shown = CodePage {
        layout: Layout::signed_out(code.title()),
        code,
        statuses: statuses.collect::<Vec<_>>().join(", "),
        remedy: code.plain_remedy(),
    };
    page(StatusCode::OK, &shown)
}
