//! `cial login` and `cial logout`.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::support::{Cial, Server, json as json_response, problem, response};

const LOGIN: &str = "018f0000-0000-4000-8000-000000000001";

fn server() -> Server {
    Server::new(|_, request| {
        if request.to_ascii_lowercase().contains("authorization: bearer cial_good\r\n") {
            let whoami = json!({
                "kind": "key", "user": null, "tenant": "acme", "role": "write", "is_admin": false,
                "key": { "id": "k1", "name": "laptop", "expires_at": null },
            });
            return json_response("200 OK", &whoami);
        }
        problem("401 Unauthorized", "", "invalid_key", "This key is not valid.", Value::Null)
    })
}

#[test]
fn a_key_from_standard_input_is_stored_for_its_owner_alone() {
    let server = server();
    let cial = Cial::new().server(&server.url());
    insta::assert_snapshot!(
        cial.run_with_input(&["login", "--token-stdin", "--profile", "work"], "cial_good\n")
    );
    let (key, config) =
        (cial.home().join(".cial/keys/work"), cial.home().join(".cial/config.toml"));
    for path in [&key, &config] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "cial_good\n");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains("file:") && !text.contains("cial_good"), "{text}");

    insta::assert_snapshot!(cial.run(&["whoami", "--profile", "work"]));
    insta::assert_snapshot!(cial.run(&["logout", "--profile", "work"]));
    assert!(!key.exists());
    insta::assert_snapshot!(cial.run(&["whoami", "--profile", "work"]));
}

/// The host that a request names.
fn host(request: &str) -> &str {
    let mut lines = request.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(name, _)| name.eq_ignore_ascii_case("host")).map(|(_, host)| host).unwrap()
}

/// A server at which somebody confirms the sign-in before the command asks a second time.
fn confirming_server() -> Server {
    Server::new(|number, request| {
        let line = request.lines().next().unwrap_or_default();
        let page = format!("http://{}/admin/cli-login", host(request));
        match line.split(' ').nth(1).unwrap_or_default() {
            "/v1/auth/cli-logins" => {
                let begun = json!({
                    "id": LOGIN, "user_code": "BCDF-GHJK", "url": page,
                    "expires_in_seconds": 300, "poll_seconds": 1,
                });
                json_response("201 Created", &begun)
            }
            path if path.ends_with("/key") && number == 1 => {
                let detail = "Nobody has confirmed this sign-in in the browser yet.";
                problem("409 Conflict", "retry-after: 2\r\n", "login_pending", detail, Value::Null)
            }
            path if path.ends_with("/key") => {
                let created = json!({
                    "id": LOGIN, "key": "cial_good", "name": "laptop", "role": "admin", "tenant": null,
                    "is_admin": true, "expires_at": null,
                });
                json_response("201 Created", &created)
            }
            "/v1/auth/sign-out" => response("204 No Content", "", "text/plain", ""),
            _ => json_response(
                "200 OK",
                &json!({ "kind": "key", "role": "admin", "is_admin": true }),
            ),
        }
    })
}

#[test]
fn without_a_browser_a_code_is_shown_and_the_key_is_fetched_once_confirmed() {
    let server = confirming_server();
    let cial = Cial::new().server(&server.url());
    insta::assert_snapshot!(cial.run(&["login", "--no-browser", "--profile", "work"]));
    assert_eq!(
        std::fs::read_to_string(cial.home().join(".cial/login-keys/work")).unwrap(),
        "cial_good\n"
    );
    let texts = server.texts();
    let body = |text: &String| -> Value {
        serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap()
    };
    let (begun, proof) = (body(&texts[0]), body(&texts[1]));
    assert_eq!(begun.get("redirect"), None);
    assert_eq!(begun["challenge"].as_str().unwrap().len(), 43);
    assert_ne!(begun["challenge"], proof["verifier"]);
    assert!(!begun["device"].as_str().unwrap().is_empty());

    insta::assert_snapshot!(cial.run(&["logout", "--profile", "work"]));
    assert_eq!(server.requests().last().unwrap(), "POST /v1/auth/sign-out");
}

#[test]
fn the_browser_brings_the_one_time_code_back() {
    let server = Server::new(|_, request| {
        if request.starts_with("POST /v1/auth/cli-logins ") {
            let body: Value =
                serde_json::from_str(request.split("\r\n\r\n").nth(1).unwrap()).unwrap();
            let redirect = body["redirect"].as_str().unwrap();
            assert!(redirect.starts_with("http://127.0.0.1:"), "{redirect}");
            let page = format!("http://{}/confirm?to={redirect}", host(request));
            let begun = json!({
                "id": LOGIN, "user_code": "BCDF-GHJK", "url": page,
                "expires_in_seconds": 300, "poll_seconds": 1,
            });
            return json_response("201 Created", &begun);
        }
        if let Some((_, to)) = request.split_once("GET /confirm?to=") {
            let redirect = to.split(' ').next().unwrap();
            let location = format!("location: {redirect}?code=one-time_code\r\n");
            return response("303 See Other", &location, "text/plain", "");
        }
        if request.contains("\"code\":\"one-time_code\"") {
            let created = json!({
                "id": LOGIN, "key": "cial_good", "name": "laptop", "role": "read", "tenant": "acme",
                "is_admin": false, "expires_at": null,
            });
            return json_response("201 Created", &created);
        }
        json_response(
            "200 OK",
            &json!({ "kind": "key", "tenant": "acme", "role": "read", "is_admin": false }),
        )
    });
    // The page that confirms leads on to the redirect; this browser goes there at once.
    let cial = Cial::new().server(&server.url()).variable("BROWSER", "curl -sL");
    let shown = cial.run_on_terminal(&["login", "--profile", "work"], "");
    assert!(shown.contains("compare the code in the browser: BCDF-GHJK"), "{shown}");
    assert!(shown.contains("signed in to http://SERVER as profile work"), "{shown}");
    assert_eq!(
        std::fs::read_to_string(cial.home().join(".cial/login-keys/work")).unwrap(),
        "cial_good\n"
    );
}

#[test]
fn a_page_on_another_server_is_not_opened() {
    let server = Server::new(|_, _| {
        let begun = json!({
            "id": LOGIN, "user_code": "BCDF-GHJK", "url": "http://other.example/admin/cli-login?id=1",
            "expires_in_seconds": 300, "poll_seconds": 1,
        });
        json_response("201 Created", &begun)
    });
    let cial = Cial::new().server(&server.url()).variable("BROWSER", "touch opened");
    insta::assert_snapshot!(cial.run(&["login", "--no-browser"]));
    let shown = cial.run_on_terminal(&["login"], "");
    assert!(shown.contains("http://other.example") && shown.contains("exit code 1"), "{shown}");
    assert_eq!(server.requests(), ["POST /v1/auth/cli-logins"; 2]);
}

#[test]
fn without_a_terminal_no_browser_opens() {
    let cial = Cial::new().server(&server().url());
    insta::assert_snapshot!(cial.run(&["login"]));
}

#[test]
fn a_key_stays_valid_on_request_and_when_it_came_from_elsewhere() {
    let server = confirming_server();
    let cial = Cial::new().server(&server.url());
    cial.run(&["login", "--no-browser", "--profile", "work"]);
    insta::assert_snapshot!(cial.run(&["logout", "--profile", "work", "--keep-key"]));
    // A key from standard input takes the place of one that the browser brought.
    cial.run_with_input(&["login", "--token-stdin", "--profile", "work"], "cial_good\n");
    assert!(!cial.home().join(".cial/login-keys/work").exists());
    cial.run(&["logout", "--profile", "work"]);
    assert!(!cial.home().join(".cial/keys/work").exists());
    cial.run(&["profile", "set", "other", "--api-key", "cial_good"]);
    insta::assert_snapshot!(cial.run(&["logout", "--profile", "other"]));
    assert!(server.requests().iter().all(|line| !line.contains("sign-out")));
}

#[test]
fn a_key_that_cannot_be_revoked_is_not_removed() {
    let working = confirming_server();
    let cial = Cial::new().server(&working.url());
    cial.run(&["login", "--no-browser", "--profile", "work"]);
    let config = cial.home().join(".cial/config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nowhere = format!("http://127.0.0.1:{port}");
    std::fs::write(&config, text.replace(&working.url(), &nowhere)).unwrap();
    let shown = cial.run(&["logout", "--profile", "work"]);
    assert!(shown.contains("exit code 1") && shown.contains("--keep-key"), "{shown}");
    assert!(cial.home().join(".cial/login-keys/work").exists());
}

#[test]
fn a_key_that_the_server_refuses_is_not_stored() {
    let cial = Cial::new().server(&server().url());
    insta::assert_snapshot!(cial.run_with_input(&["login", "--token-stdin"], "cial_bad\n"));
    assert!(!cial.home().join(".cial").exists());
}

#[test]
fn a_line_that_is_no_key_is_refused() {
    let cial = Cial::new().server(&server().url());
    insta::assert_snapshot!(cial.run_with_input(&["login", "--token-stdin"], "cial x\n"));
}
