//! Turns a problem into a page for whoever navigates: the same facts, with a way on.

use askama::Template;
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use protocol::Problem;

use super::{Frame, page, wants_page};

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    frame: Frame,
    problem: Problem,
}

pub async fn layer(request: Request, next: Next) -> Response {
    let navigates = wants_page(request.headers());
    let answer = next.run(request).await;
    let problem = answer.extensions().get::<Problem>().filter(|_| navigates).cloned();
    let Some(problem) = problem else { return answer };
    let status = answer.status();
    let shown = ProblemPage { frame: Frame::open(problem.title.clone()), problem };
    match page(status, &shown) {
        Ok(mut face) => {
            // What belongs to the status stays: when to come back, which methods there are.
            for name in [header::RETRY_AFTER, header::ALLOW] {
                if let Some(value) = answer.headers().get(&name) {
                    face.headers_mut().insert(name, value.clone());
                }
            }
            face
        }
        Err(failure) => failure.into_response(),
    }
}
