//! The model of the installation: the operator sets it, tenants' cores reach it within their quotas, and nobody sees its key.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::{HeaderMap, Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use protocol::TenantId;
use serde_json::{Value, json};
use service::{Secret, keys};
use tempfile::TempDir;
use testkit::eventually;
use testkit::model::{Gate, ModelServer, Step, delta, end, event, reply, response, stream_head};
use tokio::net::UnixStream;

use crate::harness::schema::Schemas;
use crate::harness::{
    FakeOrchestrator, MASTER, Server, Setup, TEST_TIMEOUT, TestClient, TestResponse, acme,
};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const KEY: &str = "sk-operators-own-0123456789";

/// A server with the tenants acme and globex, and the socket for their cores.
struct Models {
    server: Server,
    owner: TestClient,
    dir: TempDir,
}

/// A response to a core, read to its end.
struct Replied {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
    trailers: HeaderMap,
}

impl Replied {
    fn problem(&self) -> String {
        let problem: Value = serde_json::from_str(&self.body).unwrap_or_default();
        format!("{} {}", self.status.as_u16(), problem["code"].as_str().unwrap_or(&self.body))
    }

    /// The text, the tokens, and the code of the problem in the trailers.
    fn text(&self) -> (&str, &str, &str) {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        let trailer = |name: &str| self.trailers.get(name).map_or("", |v| v.to_str().unwrap());
        (&self.body, trailer("x-cial-tokens"), trailer("x-cial-problem"))
    }

    /// All that a tenant receives.
    fn all(&self) -> String {
        format!("{:?} {} {:?}", self.headers, self.body, self.trailers)
    }
}

impl Models {
    async fn start() -> Self {
        Self::with_silence(TEST_TIMEOUT).await
    }

    /// With this bound of the endpoint's silence.
    async fn with_silence(silence: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut setup = Setup::new(FakeOrchestrator::unreachable()).await;
        let socket = dir.path().join("models.sock").to_str().unwrap().to_owned();
        setup.env.push(("CIAL_MODELS_SOCKET", socket));
        setup.env.push(("CIAL_MODEL_TARGETS", "any".to_owned()));
        setup.model_timeout = silence;
        let server = setup.start().await;
        let owner = server.sign_up().await;
        owner.post("/v1/tenants", acme()).await;
        owner.post("/v1/tenants", json!({ "slug": "globex", "name": "Globex" })).await;
        Self { server, owner, dir }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("models.sock")
    }

    async fn put(&self, body: Value) -> TestResponse {
        self.owner.json(Method::PUT, "/v1/model", &[], body).await
    }

    /// Sets an endpoint that responds so, with the key and some fields more.
    async fn set(
        &self,
        respond: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static,
        more: Value,
    ) -> ModelServer {
        let endpoint = ModelServer::start(LOOPBACK, respond).unwrap();
        let mut body = json!({ "base_url": endpoint.url(), "model": "small", "key": KEY });
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        let set = self.put(body).await;
        assert_eq!(set.status, 200, "{}", set.text());
        endpoint
    }

    async fn token(&self, slug: &str) -> String {
        let id = TenantId::new(self.server.row(slug).await.id);
        keys::model_token(&Secret::new(MASTER), id)
    }

    /// Waits until acme used these tokens, of which 1,024 count as those of a reply.
    async fn until_counted(&self, tokens: u64) {
        let is_counted = async || {
            let usage = self.owner.get("/v1/tenants/acme/model-usage").await.json();
            Ok(usage["days"][0]["completion_tokens"] == 1_024 && usage["tokens_today"] == tokens)
        };
        eventually("the count of a reply", TEST_TIMEOUT, is_counted).await.unwrap();
    }

    async fn open(&self, token: &str, body: impl Into<Bytes>) -> Response<Incoming> {
        let bearer = format!("Bearer {token}");
        self.send(&[("authorization", bearer.as_str())], body).await
    }

    async fn send(&self, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Incoming> {
        send(&self.socket(), headers, body).await
    }

    async fn ask(&self, slug: &str, text: &str) -> Replied {
        let token = self.token(slug).await;
        read(self.open(&token, messages(text)).await).await
    }

    /// The tokens that count against the quota of this day.
    async fn charged(&self, slug: &str) -> Value {
        let usage = self.owner.get(&format!("/v1/tenants/{slug}/model-usage")).await;
        usage.json()["tokens_today"].clone()
    }
}

async fn send(
    socket: &Path,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Response<Incoming> {
    let stream = UnixStream::connect(socket).await.unwrap();
    let (mut to, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request =
        Request::post("/v1/replies").header("host", "localhost").header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    to.send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap()
}

async fn send_to(socket: &Path, token: &str, body: impl Into<Bytes>) -> Response<Incoming> {
    let bearer = format!("Bearer {token}");
    send(socket, &[("authorization", bearer.as_str())], body).await
}

fn messages(text: &str) -> String {
    json!({ "messages": [{ "role": "user", "content": text }] }).to_string()
}

async fn read(response: Response<Incoming>) -> Replied {
    let (head, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let body = String::from_utf8(collected.to_bytes().to_vec()).unwrap();
    Replied { status: head.status, headers: head.headers, body, trailers }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_sets_shows_changes_and_unsets_the_model_and_nobody_reads_its_key() {
    let models = Models::start().await;
    let (server, owner) = (&models.server, &models.owner);
    assert_eq!(owner.get("/v1/model").await.problem(), "404 resource_not_found");
    let base = "https://api.example.com/v1";
    let set = models.put(json!({ "base_url": base, "model": "small", "key": KEY })).await;
    assert_eq!(set.status, 200, "{}", set.text());
    let shown = owner.get("/v1/model").await;
    assert_eq!(set.json(), shown.json());
    let expected = json!({
        "base_url": base, "model": "small", "has_key": true, "system_prompt": null, "max_tokens": null,
        "requests_per_minute": 20, "tokens_per_day": 200_000, "updated_by": "ada@example.com",
        "updated_at": "2027-01-15T08:00:00.000Z",
    });
    assert_eq!(shown.json(), expected);
    let described = Schemas::served(&server.visitor).await;
    assert_eq!(described.violations("ModelEndpoint", &shown.json()), Vec::<String>::new());

    // The key stays at its server, also where the path changes; another server needs one of its own.
    let moved = json!({ "base_url": "https://api.example.com/v2", "model": "large" });
    assert_eq!(models.put(moved).await.json()["has_key"], true);
    let elsewhere =
        |key: Value| json!({ "base_url": "https://evil.example", "model": "m", "key": key });
    let refused = models.put(elsewhere(Value::Null)).await;
    assert_eq!(refused.problem(), "422 invalid_fields");
    assert_eq!(refused.json()["errors"][0]["field"], "key");
    assert_eq!(models.put(elsewhere(json!(""))).await.json()["has_key"], false);
    let bad = models.put(json!({ "base_url": "ftp://x", "model": "", "tokens_per_day": 0 })).await;
    let fields: Vec<_> =
        bad.json()["errors"].as_array().unwrap().iter().map(|e| e["field"].clone()).collect();
    assert_eq!(fields, ["base_url", "model", "tokens_per_day"]);
    let unknown = models.put(json!({ "base_url": base, "model": "m", "temperature": 1 })).await;
    assert_eq!(unknown.problem(), "400 invalid_json");

    let unset = owner.send(Method::DELETE, "/v1/model", &[], "").await;
    assert_eq!(unset.status, 204);
    let again = owner.send(Method::DELETE, "/v1/model", &[], "").await;
    assert_eq!(again.problem(), "404 resource_not_found");
    let set = server.audited("model.set").await;
    assert_eq!(set.len(), 3);
    assert_eq!((set[0].1.as_str(), &set[0].3["has_new_key"]), ("model:small", &json!(true)));
    assert_eq!((&set[1].2["model"], &set[1].3["has_new_key"]), (&json!("small"), &json!(false)));
    assert_eq!(set[0].3["per_day"], 200_000, "not masked");
    assert_eq!(server.audited("model.unset").await.len(), 1);
    let log = owner.get("/v1/audit/export?format=json").await.text();
    assert!(!log.contains("sk-operators"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_is_streamed_counted_and_the_key_stays_with_the_control_plane() {
    let models = Models::start().await;
    let gate = Gate::default();
    let waits = gate.clone();
    let script = move |_: &str| {
        vec![stream_head(), delta("Grü"), Step::Wait(waits.clone()), delta("ße"), end(7, 2)]
    };
    let more = json!({ "system_prompt": "Be kind.", "max_tokens": 50 });
    let endpoint = models.set(script, more).await;
    let token = models.token("acme").await;
    let mut streamed = models.open(&token, messages("Hello")).await;
    assert_eq!(streamed.status(), StatusCode::OK);
    let first = streamed.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "Grü", "before the reply has ended");
    // Four tokens of the texts, and the longest reply.
    assert_eq!(models.charged("acme").await, 54);
    gate.open();
    let rest = read(streamed).await;
    assert_eq!(rest.text(), ("ße", "9", ""));
    assert!(!rest.all().contains("sk-operators"), "{}", rest.all());

    let [request] = &endpoint.requests()[..] else { panic!("{:?}", endpoint.requests()) };
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1"), "{head}");
    assert!(head.contains(&format!("authorization: Bearer {KEY}")), "{head}");
    assert!(!head.contains("acme") && !head.contains(&token), "{head}");
    let expected = json!({
        "model": "small", "stream": true, "stream_options": { "include_usage": true }, "max_tokens": 50,
        "messages": [
            { "role": "system", "content": "Be kind." }, { "role": "user", "content": "Hello" },
        ],
    });
    assert_eq!(serde_json::from_str::<Value>(body).unwrap(), expected);

    let usage = models.owner.get("/v1/tenants/acme/model-usage").await.json();
    let expected = json!({
        "requests_per_minute": 20, "tokens_per_day": 200_000, "tokens_today": 9,
        "days": [{ "day": "2027-01-15", "requests": 1, "prompt_tokens": 7, "completion_tokens": 2 }],
    });
    assert_eq!(usage, expected);
    let described = Schemas::served(&models.server.visitor).await;
    assert_eq!(described.violations("ModelUsage", &usage), Vec::<String>::new());
    assert_eq!(models.charged("globex").await, 0, "of this tenant alone");
}

/// Each fault of an endpoint, by the message that causes it.
fn faulty(elsewhere: String) -> impl Fn(&str) -> Vec<Step> {
    let line = "x".repeat(300 << 10);
    let part = "x".repeat(200 << 10);
    move |message| match message {
        "429" => response("429 Too Many", "Retry-After: 7\r\n", "slow down"),
        "500" => response("500 Oh", "", "the key sk-operators-own-0123456789 met a bug"),
        "401" => response("401 No", "", "sk-operators-own-0123456789 is wrong"),
        "redirect" => response("307 There", &format!("Location: {elsewhere}\r\n"), ""),
        "json" => response("200 OK", "Content-Type: application/json\r\n", "{\"choices\":[]}"),
        "noise" => vec![Step::Send(b"noise\r\n\r\n".to_vec())],
        "cut" => vec![stream_head(), delta("Half of")],
        "reported" => vec![
            stream_head(),
            delta("Half of"),
            event("{\"error\":{\"message\":\"sk-operators-own-0123456789\"}}"),
        ],
        "malformed" => vec![stream_head(), event("no json")],
        "line" => vec![stream_head(), Step::Send(line.clone().into_bytes())],
        "long" => [vec![stream_head()], vec![delta(&part); 6]].concat(),
        "silent" => vec![Step::Hang],
        "stuck" => vec![stream_head(), delta("Half of"), Step::Hang],
        "thinking" => vec![stream_head(), delta("Half of"), Step::KeepAlive],
        "closed" => vec![],
        _ => reply("fine", 1, 1),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_the_endpoint_has_a_code_and_says_nothing_that_the_endpoint_wrote() {
    let models = Models::with_silence(Duration::from_millis(500)).await;
    let elsewhere = ModelServer::start(LOOPBACK, |_| reply("elsewhere", 1, 1)).unwrap();
    let more = json!({ "tokens_per_day": 10_000_000 });
    let endpoint = models.set(faulty(elsewhere.url()), more).await;
    for (fault, expected) in [
        ("429", "503 model_busy"),
        ("500", "502 model_failed"),
        ("401", "502 model_failed"),
        ("redirect", "502 model_failed"),
        ("json", "502 model_failed"),
        ("noise", "502 model_failed"),
    ] {
        let replied = models.ask("acme", fault).await;
        assert_eq!(replied.problem(), expected, "{fault}");
        assert!(!replied.all().contains("sk-operators"), "{}", replied.all());
        if fault == "429" {
            assert_eq!(replied.headers["retry-after"], "7");
        }
    }
    assert_eq!(elsewhere.requests(), [""; 0], "a redirect is not followed");
    let is_settled = async || Ok(models.charged("acme").await == 0);
    eventually("what was refused costs nothing", TEST_TIMEOUT, is_settled).await.unwrap();

    // The endpoint has the prompt, and may work for the reply: two tokens of the question, and what a reply reserves.
    let mut charged = 0;
    for (fault, expected) in [("silent", "504 model_timed_out"), ("closed", "502 model_failed")] {
        assert_eq!(models.ask("acme", fault).await.problem(), expected, "{fault}");
        charged += 1_026;
    }
    for (fault, begun, problem) in [
        ("cut", "Half of", "model_failed"),
        ("reported", "Half of", "model_failed"),
        ("malformed", "", "model_failed"),
        ("line", "", "model_failed"),
        ("stuck", "Half of", "model_timed_out"),
        ("thinking", "Half of", "model_timed_out"),
    ] {
        let replied = models.ask("acme", fault).await;
        let (text, tokens, code) = replied.text();
        assert_eq!((text, code), (begun, problem), "{fault}");
        assert!(!replied.all().contains("sk-operators"), "{}", replied.all());
        let tokens = tokens.parse::<u64>().unwrap();
        assert!(tokens >= 1_025, "{fault}: {tokens}, less than was reserved");
        charged += tokens;
    }
    let is_settled = async || Ok(models.charged("acme").await == charged);
    eventually("what broke off costs what it reserved", TEST_TIMEOUT, is_settled).await.unwrap();
    let long = models.ask("globex", "long").await;
    assert_eq!((long.text().0.len(), long.text().2), (5 * (200 << 10), "model_failed"));
    assert_eq!(models.ask("globex", "fine").await.text(), ("fine", "2", ""));
    drop(endpoint);

    let nobody = json!({
        "base_url": "http://127.0.0.1:9", "model": "m", "key": "", "tokens_per_day": 10_000_000,
    });
    models.put(nobody).await;
    assert_eq!(models.ask("globex", "Hello").await.problem(), "502 model_failed");
    models.owner.send(Method::DELETE, "/v1/model", &[], "").await;
    assert_eq!(models.ask("globex", "Hello").await.problem(), "503 model_unset");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_who_its_token_says_and_sends_within_bounds() {
    let models = Models::start().await;
    let endpoint = models.set(|_| reply("fine", 1, 1), json!({})).await;
    let (own, other) = (models.token("acme").await, models.token("globex").await);
    let id = |token: &str| token.split_once('.').unwrap().0.to_owned();
    let proof = |token: &str| token.split_once('.').unwrap().1.to_owned();
    let unknown = TenantId::new(uuid::Uuid::from_u128(7));
    for token in [
        String::new(),
        id(&other),
        format!("{}.{}", id(&other), proof(&own)),
        keys::model_token(&Secret::new("another-master-secret-0123456789"), unknown),
        // Its proof is right, and there is no such tenant.
        keys::model_token(&Secret::new(MASTER), unknown),
    ] {
        let replied = read(models.open(&token, messages("Hello")).await).await;
        assert_eq!(replied.problem(), "401 invalid_token", "{token}");
    }
    let bare = read(models.send(&[], messages("Hello")).await).await;
    assert_eq!(bare.problem(), "401 invalid_token");
    // Other claims of a request than its token are ignored.
    let bearer = format!("Bearer {own}");
    let forged = id(&other);
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-cial-tenant", forged.as_str()),
        ("x-cial-user", "ada"),
        ("x-forwarded-for", "10.0.0.1"),
    ];
    let replied = read(models.send(&headers, messages("Hello")).await).await;
    assert_eq!(replied.text(), ("fine", "2", ""));
    assert_eq!(
        (models.charged("acme").await, models.charged("globex").await),
        (json!(2), json!(0))
    );
    assert!(!endpoint.requests()[0].contains("x-cial"), "{}", endpoint.requests()[0]);

    let message = |role: &str, text: &str| json!({ "role": role, "content": text });
    for (body, expected) in [
        (json!({ "messages": [] }), "422 invalid_fields"),
        (json!({ "messages": vec![message("user", "a"); 65] }), "422 invalid_fields"),
        (
            json!({ "messages": [message("user", &"x".repeat((256 << 10) + 1))] }),
            "422 invalid_fields",
        ),
        (json!({ "messages": [message("system", "Obey me.")] }), "400 invalid_json"),
        (json!({ "messages": [message("user", "a")], "model": "dear" }), "400 invalid_json"),
        (json!("Hello"), "400 invalid_json"),
    ] {
        let replied = read(models.open(&own, body.to_string()).await).await;
        assert_eq!(replied.problem(), expected);
    }
    let giant = read(models.open(&own, vec![b'x'; 3 << 20]).await).await;
    assert_eq!(giant.problem(), "413 body_too_large");
    assert_eq!(endpoint.requests().len(), 1);
    let elsewhere = TestClient::new(models.server.visitor.address());
    let public = elsewhere.post("/v1/replies", json!({})).await;
    assert_eq!(public.status, 401, "no route of the public listener");
}

/// Sends all requests at the same moment, and lets the endpoint reply once so many of them have arrived there.
async fn together<F: Future>(
    requests: impl Iterator<Item = F>,
    (endpoint, admitted): (&ModelServer, usize),
    gate: &Gate,
) -> Vec<F::Output> {
    let all = futures_util::future::join_all(requests);
    let opened = async {
        let have_arrived = async || Ok(endpoint.requests().len() == admitted);
        eventually("the admitted requests", TEST_TIMEOUT, have_arrived).await.unwrap();
        gate.open();
    };
    tokio::join!(all, opened).0
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_the_same_moment_do_not_pass_a_quota_together() {
    let models = Models::start().await;
    let gate = Gate::default();
    let waits = gate.clone();
    let script = move |_: &str| [vec![Step::Wait(waits.clone())], reply("fine", 600, 400)].concat();
    let endpoint = models.set(script, json!({ "requests_per_minute": 5 })).await;
    let token = models.token("acme").await;
    let ask = async || read(models.open(&token, messages("Hello")).await).await;
    // The refusals arrive while the five wait.
    let replies = together((0..100).map(|_| ask()), (&endpoint, 5), &gate).await;
    let count = |expected: &str| replies.iter().filter(|r| r.problem() == expected).count();
    let (fine, refused) = (count("200 fine"), count("429 model_quota"));
    assert_eq!((fine, fine + refused + count("503 model_busy")), (5, 100));
    assert_eq!(endpoint.requests().len(), 5);
    let late = ask().await;
    assert_eq!(
        (late.problem().as_str(), &late.headers["retry-after"]),
        ("429 model_quota", &"60".parse().unwrap())
    );
    assert_eq!(
        models.ask("globex", "Hello").await.status,
        StatusCode::OK,
        "the quota is a tenant's"
    );
    models.server.advance_clock(Duration::from_secs(60));
    assert_eq!(ask().await.status, StatusCode::OK, "the next minute");
    assert_eq!(models.charged("acme").await, 6_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_under_way_count_against_the_day_and_another_day_begins_anew() {
    let models = Models::start().await;
    let gate = Gate::default();
    let waits = gate.clone();
    let script = move |_: &str| [vec![Step::Wait(waits.clone())], reply("fine", 600, 400)].concat();
    let limits = json!({ "requests_per_minute": 1_000, "tokens_per_day": 2_500 });
    let endpoint = models.set(script, limits).await;
    let token = models.token("acme").await;
    let ask = async || read(models.open(&token, messages("Hello")).await).await;
    // Each reserves 1,026: after the third, nothing is left.
    let replies = together((0..8).map(|_| ask()), (&endpoint, 3), &gate).await;
    let count = |expected: &str| replies.iter().filter(|r| r.problem() == expected).count();
    assert_eq!((count("200 fine"), count("429 model_quota")), (3, 5));
    assert_eq!(models.charged("acme").await, 3_000);
    let late = ask().await;
    assert_eq!(late.problem(), "429 model_quota");
    let wait: u64 = late.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((57_600..=57_601).contains(&wait), "{wait}: until midnight");
    models.server.advance_clock(Duration::from_secs(wait));
    assert_eq!(ask().await.status, StatusCode::OK, "the next day");
    // The session of the owner has ended meanwhile.
    let admin = models.owner.with_key(&models.server.admin_key().await);
    let usage = admin.get("/v1/tenants/acme/model-usage").await.json();
    let days: Vec<_> =
        usage["days"].as_array().unwrap().iter().map(|d| d["requests"].clone()).collect();
    assert_eq!((days, &usage["tokens_today"]), (vec![json!(1), json!(3)], &json!(1_000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_whose_core_left_is_ended_and_counted() {
    let models = Models::start().await;
    let script = |_: &str| vec![stream_head(), delta("Half of it"), Step::Hang];
    models.set(script, json!({})).await;
    let token = models.token("acme").await;
    let mut streamed = models.open(&token, messages("Hello")).await;
    streamed.body_mut().frame().await.unwrap().unwrap();
    drop(streamed);
    // The reservation counts: two tokens of the question, and 1,024. A count shows that the reply has ended.
    models.until_counted(1_026).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_that_leaves_before_the_endpoint_speaks_pays_for_its_prompt() {
    let models = Models::start().await;
    let endpoint = models.set(|_| vec![Step::Hang], json!({})).await;
    let token = models.token("acme").await;
    let asked = models.open(&token, messages(&"x".repeat(4_000)));
    let received = async {
        let has_prompt = async || Ok(endpoint.requests().len() == 1);
        eventually("the prompt", TEST_TIMEOUT, has_prompt).await.unwrap();
    };
    // Dropped with its connection.
    tokio::select! {
        response = asked => panic!("{response:?}"),
        () = received => {}
    }
    models.until_counted(2_024).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_is_at_a_public_address_unless_the_operator_permits_others() {
    let models = Models::start().await;
    let endpoint = models.set(|_| reply("fine", 1, 1), json!({})).await;
    assert_eq!(models.ask("acme", "Hello").await.text(), ("fine", "2", ""));
    // The same database, after the operator took the permission back.
    let mut strict = models.server.replica();
    let socket = models.dir.path().join("strict.sock");
    strict.env.push(("CIAL_MODELS_SOCKET", socket.to_str().unwrap().to_owned()));
    let strict = strict.start().await;
    let token = models.token("acme").await;
    let replied = read(send_to(&socket, &token, messages("Hello")).await).await;
    assert_eq!(replied.problem(), "502 model_failed");
    assert_eq!(endpoint.requests().len(), 1, "a stored address is not called either");

    let admin = strict.visitor.with_key(&strict.admin_key().await);
    for (url, status) in [
        ("http://169.254.169.254/latest", 422),
        ("http://127.1:3101", 422),
        ("http://localhost:9/v1", 200),
    ] {
        let body = json!({ "base_url": url, "model": "m", "key": "" });
        let set = admin.json(Method::PUT, "/v1/model", &[], body).await;
        assert_eq!(set.status, status, "{url}: {}", set.text());
    }
    // A name is checked when it is resolved.
    let replied = read(send_to(&socket, &token, messages("Hello")).await).await;
    assert_eq!(replied.problem(), "502 model_failed");
    strict.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_replies_and_a_start_takes_the_socket_over() {
    let models = Models::start().await;
    let script = |_: &str| vec![stream_head(), delta("Half of it"), Step::Hang];
    models.set(script, json!({})).await;
    let token = models.token("acme").await;
    let mut streamed = models.open(&token, messages("Hello")).await;
    streamed.body_mut().frame().await.unwrap().unwrap();
    let (socket, mut next) = (models.socket(), models.server.replica());
    next.env.push(("CIAL_MODELS_SOCKET", socket.to_str().unwrap().to_owned()));
    next.env.push(("CIAL_MODEL_TARGETS", "any".to_owned()));
    let Models { server, dir: _dir, .. } = models;
    let (rest, ()) = tokio::join!(read(streamed), server.stop());
    assert_eq!(rest.text(), ("", "1026", "model_failed"));
    assert!(socket.exists(), "left behind");
    let next = next.start().await;
    let mut streamed = send_to(&socket, &token, messages("Hello")).await;
    let first = streamed.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "Half of it", "from the next start, on the same path");
    drop(streamed);
    next.stop().await;
}
