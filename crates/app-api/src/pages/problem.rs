//! Renders a problem as a page when the request accepts HTML: the same facts, and a link to continue.

use askama::Template;
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use protocol::Problem;
use service::api_error::ErrorCause;

use super::{Layout, is_navigation, page};
use crate::access::Person;
use crate::app::App;
use crate::sessions;

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    layout: Layout,
    problem: Problem,
}

pub async fn layer(State(app): State<App>, request: Request, next: Next) -> Response {
    let headers = request.headers().clone();
    let expects_page = is_navigation(request.headers());
    let response = next.run(request).await;
    let problem = response.extensions().get::<Problem>().filter(|_| expects_page).cloned();
    let Some(problem) = problem else { return response };
    let status = response.status();
    // The page keeps the navigation of a signed-in owner, unless the session cannot be read.
    let session = sessions::find(&app, &headers).await;
    let layout = match session {
        Ok(Some((session, user))) => {
            Layout::signed_in(&Person { user, session }, problem.title.clone())
        }
        Ok(None) | Err(_) => Layout::signed_out(problem.title.clone()),
    };
    let shown = ProblemPage { layout, problem };
    match page(status, &shown) {
        Ok(mut page) => {
            // These headers belong to the status, not to the body.
            for name in [header::RETRY_AFTER, header::ALLOW] {
                if let Some(value) = response.headers().get(&name) {
                    page.headers_mut().insert(name, value.clone());
                }
            }
            if let Some(cause) = response.extensions().get::<ErrorCause>() {
                page.extensions_mut().insert(cause.clone());
            }
            page
        }
        Err(failure) => failure.into_response(),
    }
}
