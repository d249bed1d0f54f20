//! platform-back: health and facts.

use hyper::{Method, StatusCode};

use crate::world::{Platform, ask, ask_with};

#[tokio::test]
async fn health_and_facts_and_nothing_else() {
    let platform = Platform::start("demo").await;
    let get = |path| ask(platform.back, Method::GET, path, &[]);
    assert_eq!(*get("/health").await.body(), r#"{"status":"ok"}"#);
    assert!(get("/facts").await.body().starts_with(r#"{"fact":"platform-back of demo"#));
    assert_eq!(get("/").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(get("/chat").await.status(), StatusCode::METHOD_NOT_ALLOWED);
    let chat = r#"{"message":"Hello <b>","conversation":"c"}"#;
    let echoed = ask_with(platform.back, Method::POST, "/chat", chat).await;
    assert_eq!((echoed.status(), echoed.body().as_str()), (StatusCode::OK, "Hello <b>"));
    let noise = ask_with(platform.back, Method::POST, "/chat", "Hello").await;
    assert_eq!(noise.status(), StatusCode::BAD_REQUEST);
    let post = ask(platform.back, Method::POST, "/facts", &[]).await;
    assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
}
