//! The admin's pages: plain links and forms that work without scripts. Every change is a POST that redirects.

pub mod accounts;
pub mod assets;
pub mod choice;
pub mod edit;
pub mod field;
pub mod problem;
pub mod sleep;
pub mod status;
pub mod tenants;
pub mod words;

use askama::Template;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use protocol::Problem;
use service::failure::Failure;

use crate::access::Owner;

/// What the frame around every page shows.
pub struct Frame {
    pub title: String,
    /// The signed-in owner's address.
    pub email: Option<String>,
    /// Something moves by itself: look again soon.
    pub refresh: bool,
    pub style: &'static str,
}

impl Frame {
    fn open(title: impl Into<String>) -> Self {
        Self { title: title.into(), email: None, refresh: false, style: assets::style_path() }
    }

    fn of(owner: &Owner, title: impl Into<String>) -> Self {
        Self { email: Some(owner.user.email.clone()), ..Self::open(title) }
    }
}

/// Signed-out or first-time visitors begin here.
pub async fn root() -> Redirect {
    Redirect::to("/admin")
}

fn page(status: StatusCode, template: &impl Template) -> Result<Response, Failure> {
    let html = Html(template.render()?);
    Ok((status, [(header::CACHE_CONTROL, "no-store")], html).into_response())
}

/// A fault that the form can show at its fields; anything else is an error page.
fn of_form(failure: Failure) -> Result<(StatusCode, Problem), Failure> {
    match failure.status() {
        status if status.is_server_error() => Err(failure),
        status => Ok((status, *failure.problem)),
    }
}

/// Whether a browser asks for a page, as opposed to a program for data.
pub fn wants_page(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|kind| kind.trim().starts_with("text/html"))
}
