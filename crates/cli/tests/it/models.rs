//! `cial models`: what is sent, what is kept, and that no key is shown.

use insta::assert_snapshot;
use protocol::model::SetModel;
use serde_json::{Value, json};

use crate::support::{Cial, Server, json as json_response, problem};

fn model() -> Value {
    json!({
        "base_url": "https://api.example.com/v1", "model": "small", "has_key": true, "system_prompt": "Be kind.",
        "max_tokens": 500, "requests_per_minute": 20, "tokens_per_day": 200_000,
        "updated_by": "ada@example.com", "updated_at": "2026-11-29T08:00:00.000Z",
    })
}

/// The body of the request that sets the model.
fn sent(server: &Server) -> Value {
    let texts = server.texts();
    let put = texts.iter().find(|text| text.starts_with("PUT /v1/model ")).unwrap();
    let (_, body) = put.split_once("\r\n\r\n").unwrap();
    serde_json::from_str::<SetModel>(body).unwrap();
    serde_json::from_str(body).unwrap()
}

#[test]
fn the_first_model_needs_an_address_and_a_name_and_its_key_comes_from_a_file() {
    let server = Server::new(|_, request| match request.starts_with("GET") {
        true => problem("404 Not Found", "", "resource_not_found", "No model is set.", Value::Null),
        false => json_response("200 OK", &model()),
    });
    let cial = Cial::at(&server).file("key", "sk-secret\n");
    let lacking = cial.run(&["models", "set", "--model", "small"]);
    assert!(lacking.contains("--url is needed") && lacking.contains("exit code 2"), "{lacking}");
    let key = cial.home().join("key").display().to_string();
    let args = [
        "models",
        "set",
        "--url",
        "https://api.example.com/v1",
        "--model",
        "small",
        "--key-file",
        &key,
    ];
    let printed = cial.run(&args);
    assert_snapshot!(printed);
    assert!(!printed.contains("sk-secret"), "{printed}");
    let expected =
        json!({ "base_url": "https://api.example.com/v1", "model": "small", "key": "sk-secret" });
    assert_eq!(sent(&server), expected);
}

#[test]
fn a_change_keeps_what_no_flag_names() {
    let server = Server::always(json_response("200 OK", &model()));
    Cial::at(&server).run(&["models", "set", "--requests-per-minute", "5", "--max-tokens", "0"]);
    let expected = json!({
        "base_url": "https://api.example.com/v1", "model": "small", "system_prompt": "Be kind.",
        "requests_per_minute": 5, "tokens_per_day": 200_000,
    });
    assert_eq!(sent(&server), expected);
    let server = Server::always(json_response("200 OK", &model()));
    Cial::at(&server).run(&["models", "set", "--no-key"]);
    assert_eq!(sent(&server)["key"], "");
}

#[test]
fn the_use_of_a_tenant_is_shown_by_days() {
    let usage = json!({
        "requests_per_minute": 20, "tokens_per_day": 200_000, "tokens_today": 900,
        "days": [{ "day": "2026-11-30", "requests": 3, "prompt_tokens": 700, "completion_tokens": 200 }],
    });
    let server = Server::always(json_response("200 OK", &usage));
    assert_snapshot!(Cial::at(&server).run(&["models", "usage", "acme"]));
    assert_eq!(server.requests(), ["GET /v1/tenants/acme/model-usage"]);
}
