//! The rest of core-back's paths.

use hyper::{Method, StatusCode};

use crate::harness::{Core, code, header};

#[tokio::test]
async fn the_path_is_shown_as_seen() {
    let core = Core::start(&[]);
    assert_eq!(*core.get("/echo-path").await.body(), r#"{"path":"/echo-path"}"#);
    assert_eq!(*core.get("/echo-path/a%2fb?x=1").await.body(), r#"{"path":"/echo-path/a%2fb"}"#);
}

#[tokio::test]
async fn what_comes_later_says_so() {
    let core = Core::start(&[]);
    for path in ["/agent", "/deploy", "/agent/1"] {
        for method in [Method::GET, Method::POST] {
            let answer = core.ask(method, path, &[]).await;
            assert_eq!(answer.status(), StatusCode::NOT_IMPLEMENTED);
            assert_eq!(code(&answer), "not_implemented");
        }
    }
}

#[tokio::test]
async fn anything_else_is_a_problem_or_a_page() {
    let core = Core::start(&[]);
    for path in ["/", "/chatter", "/chat/1", "/healthz/", "/.cial", "//healthz", "/x/../healthz"] {
        let answer = core.get(path).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(code(&answer), "not_found", "{path}");
    }
    let page = core.ask(Method::GET, "/nowhere", &[("accept", "text/html")]).await;
    assert_eq!(page.status(), StatusCode::NOT_FOUND);
    assert_eq!(header(&page, "content-type"), Some("text/html; charset=utf-8"));
    assert!(page.body().contains(header(&page, "x-request-id").unwrap()));
    let health = core.ask(Method::POST, "/healthz", &[]).await;
    assert_eq!(health.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_request_keeps_the_id_that_it_came_with() {
    let core = Core::start(&[]);
    let answer = core.ask(Method::GET, "/nowhere", &[("x-request-id", "0192-abc")]).await;
    assert_eq!(header(&answer, "x-request-id"), Some("0192-abc"));
    let answer = core.ask(Method::GET, "/nowhere", &[("x-request-id", "<b>")]).await;
    assert_ne!(header(&answer, "x-request-id"), Some("<b>"));
}
