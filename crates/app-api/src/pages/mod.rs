//! The admin's pages: plain links and forms that work without scripts. Every change is a POST that redirects.

pub mod account;
pub mod accounts;
pub mod apps;
pub mod assets;
pub mod audit;
pub mod choice;
pub mod cli_login;
pub mod edit;
pub mod field;
pub mod format;
pub mod invitation;
pub mod keys;
pub mod problem;
pub mod problem_code;
pub mod registries;
pub mod second_factor;
pub mod sleep;
pub mod status_badge;
pub mod team;
pub mod tenant_sign_in;
pub mod tenants;
pub mod variables;
pub mod webhooks;

use askama::Template;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use protocol::Problem;
use service::api_error::ApiError;

use crate::access::Person;
use crate::access::principal::CallerScope;

/// The values of the layout around every page.
pub struct Layout {
    pub title: String,
    /// The signed-in person's address.
    pub email: Option<String>,
    /// Whether the person administers the platform.
    pub is_operator: bool,
    /// Whether the person sees who operates the platform, and its audit log.
    pub sees_platform: bool,
    /// The page shows a transient state and reloads itself.
    pub refresh: bool,
    pub style: &'static str,
}

impl Layout {
    fn signed_out(title: impl Into<String>) -> Self {
        let title = title.into();
        let style = assets::style_path();
        Self { title, email: None, is_operator: false, sees_platform: false, refresh: false, style }
    }

    fn signed_in(person: &Person, title: impl Into<String>) -> Self {
        let scope = CallerScope::of_user(&person.user);
        let is_operator = scope == CallerScope::Platform;
        let sees_platform = is_operator || scope == CallerScope::PlatformRead;
        let email = Some(person.user.email.clone());
        Self { email, is_operator, sees_platform, ..Self::signed_out(title) }
    }
}

/// The start page leads to the list of tenants, and from there to sign-in or sign-up.
pub async fn root() -> Redirect {
    Redirect::to("/admin")
}

fn page(status: StatusCode, template: &impl Template) -> Result<Response, ApiError> {
    let html = Html(template.render()?);
    Ok((status, [(header::CACHE_CONTROL, "no-store")], html).into_response())
}

/// Returns a problem that the form can show at its fields; a server error becomes an error page.
fn form_problem(failure: ApiError) -> Result<(StatusCode, Problem), ApiError> {
    match failure.status() {
        status if status.is_server_error() => Err(failure),
        status => Ok((status, *failure.problem)),
    }
}

/// Whether a browser expects a page as the response.
pub fn is_navigation(headers: &HeaderMap) -> bool {
    let value = |name: &str| headers.get(name).map(|value| value.as_bytes());
    protocol::headers::is_navigation(value("sec-fetch-mode"), value("accept"))
}
