//! An error is a problem, or a page with the same facts, and names no cause.

use crate::raw::{get, send};
use crate::world::Tenant;

#[tokio::test]
async fn a_program_gets_a_problem_and_a_person_a_page() {
    let tenant = Tenant::open().await;
    let problem = get(tenant.tcp, "//.cial", &[]).await;
    assert_eq!(problem.all("content-type"), ["application/problem+json"]);
    assert_eq!(problem.json()["status"], 400);
    assert_eq!(problem.json()["request_id"], problem.all("x-request-id")[0]);

    let page = get(tenant.tcp, "//.cial", &["Accept: text/html"]).await;
    assert_eq!((page.status, page.all("content-type")), (400, vec!["text/html; charset=utf-8"]));
    assert!(page.body.contains(page.all("x-request-id")[0]), "{}", page.body);
    assert!(page.all("content-security-policy")[0].starts_with("default-src 'none'"));
}

#[tokio::test]
async fn a_service_that_is_gone_is_a_502_without_a_cause() {
    let tenant = Tenant::open().await;
    tenant.core_back.cancel();
    let mut response = get(tenant.tcp, "/.cial/api/x", &[]).await;
    while response.status == 200 {
        response = get(tenant.tcp, "/.cial/api/x", &[]).await;
    }
    assert_eq!((response.status, response.code().as_str()), (502, "upstream_unreachable"));
    assert!(!response.body.contains("sock"), "{}", response.body);
    assert_eq!(get(tenant.tcp, "/", &[]).await.status, 200, "the others go on");
}

#[tokio::test]
async fn a_request_with_two_framings_is_refused() {
    let tenant = Tenant::open().await;
    let smuggled = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
                    0\r\n\r\nGET /.cial HTTP/1.1\r\nHost: a\r\n\r\n";
    let response = send(tenant.tcp, smuggled).await;
    assert_eq!(response.status, 400);
    assert!(!response.body.contains("core-front"), "nothing after it is read as a request");
}
