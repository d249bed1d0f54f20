//! A core-back on a socket in a directory of its own, and a client.

use std::path::{Path, PathBuf};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{COOKIE, SET_COOKIE};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tenant_core::back::{
    Back, ChatHandler, PrivateListeners, Readiness, ReadinessReporter, Settings, run,
};
use tenant_core::token::Verifier;
use tenant_service::user::SESSION_PATH;
use tenant_service::{BoundedListener, Drain};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::tokens::nonce_cookie;

pub(crate) const TENANT: &str = "0192f0c1-2345-7abc-8def-0123456789ab";

/// Connections of the edge.
pub(crate) const MAX_CONNECTIONS: usize = 64;

pub(crate) struct Core {
    pub(crate) dir: TempDir,
    pub(crate) reporter: ReadinessReporter,
    pub(crate) stop: CancellationToken,
    /// The data volume.
    data: PathBuf,
    running: JoinHandle<()>,
}

pub(crate) type TestResponse = Response<String>;

impl Core {
    /// Starts a core-back with these files as secrets.
    pub(crate) fn start(secrets: &[(&str, &[u8])]) -> Self {
        Self::start_with_chat(secrets, None)
    }

    /// The same with an app that takes messages.
    pub(crate) fn start_with_chat(secrets: &[(&str, &[u8])], chat: Option<ChatHandler>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().to_owned();
        Self::start_in(dir, data, secrets, chat)
    }

    /// The same with the data volume in another directory.
    pub(crate) fn start_on(data: &Path, secrets: &[(&str, &[u8])]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), data.to_owned(), secrets, None)
    }

    fn start_in(
        dir: TempDir,
        data: PathBuf,
        secrets: &[(&str, &[u8])],
        chat: Option<ChatHandler>,
    ) -> Self {
        for (name, bytes) in secrets {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        let listen = |name: &str| UnixListener::bind(dir.path().join(name)).unwrap();
        let listener = BoundedListener::new(listen("back.sock"), MAX_CONNECTIONS);
        let busy = PrivateListeners {
            core: listen("core-busy.sock"),
            agent: listen("agent-busy.sock"),
            orchestrator: Some(listen("ingress-busy.sock")),
        };
        let stop = CancellationToken::new();
        let (readiness, reporter) = Readiness::new();
        let settings = Settings {
            tenant: "acme".to_owned(),
            verifier: Verifier::read(dir.path(), TENANT.parse().unwrap()).unwrap(),
            data: data.clone(),
            gauges_sockets: ["edge-gauges.sock", "nobody.sock"].map(|name| dir.path().join(name)),
            chat,
            files_socket: dir.path().join("files.sock"),
            files_dir: data.clone(),
            disk_share: dir.path().join("disk-share.json"),
        };
        let back = Back::open(settings, readiness, Drain::new(stop.clone())).unwrap();
        let running = tokio::spawn(run(listener, busy, back));
        Self { dir, reporter, stop, data, running }
    }

    pub(crate) async fn stopped(self) -> TempDir {
        self.stop.cancel();
        self.running.await.unwrap();
        self.dir
    }

    /// Restarts the tenant's container.
    pub(crate) async fn restarted(self) -> Self {
        let data = self.data.clone();
        let dir = self.stopped().await;
        for name in ["back.sock", "core-busy.sock", "agent-busy.sock", "ingress-busy.sock"] {
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
        Self::start_in(dir, data, &[], None)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("back.sock")
    }

    pub(crate) async fn get(&self, path: &str) -> TestResponse {
        self.ask(Method::GET, path, &[]).await
    }

    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> TestResponse {
        ask(&self.socket(), method, path, headers).await
    }

    pub(crate) async fn sign_in(&self, token: &str) -> TestResponse {
        let cookie = nonce_cookie("");
        let path = format!("/.cial/sso?token={token}");
        self.ask(Method::GET, &path, &[(COOKIE.as_str(), &cookie)]).await
    }

    /// Requests the session's user for this cookie.
    pub(crate) async fn who(&self, cookie: &str) -> TestResponse {
        self.ask(Method::GET, SESSION_PATH, &[(COOKIE.as_str(), cookie)]).await
    }
}

pub(crate) async fn ask(
    socket: &Path,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> TestResponse {
    ask_with(socket, method, path, headers, String::new()).await
}

pub(crate) async fn ask_with(
    socket: &Path,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: String,
) -> TestResponse {
    let mut request = Request::builder().method(method).uri(path).header("host", "acme.localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let stream = TokioIo::new(UnixStream::connect(socket).await.unwrap());
    let (mut sender, connection) = http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = request.body(Full::<Bytes>::from(body)).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Response::from_parts(head, String::from_utf8(body.to_vec()).unwrap())
}

/// Returns the name and value of the one cookie that the response sets.
pub(crate) fn cookie(answer: &TestResponse) -> String {
    let line = answer.headers()[SET_COOKIE].to_str().unwrap();
    line.split(';').next().unwrap().to_owned()
}

pub(crate) fn header<'a>(answer: &'a TestResponse, name: &str) -> Option<&'a str> {
    answer.headers().get(name).map(|value| value.to_str().unwrap())
}

/// Returns the stable code of a problem.
pub(crate) fn code(answer: &TestResponse) -> String {
    assert_eq!(header(answer, "content-type"), Some("application/problem+json"));
    let problem: serde_json::Value = serde_json::from_str(answer.body()).unwrap();
    assert_eq!(problem["status"], answer.status().as_u16());
    assert_eq!(problem["request_id"], header(answer, "x-request-id").unwrap());
    problem["code"].as_str().unwrap().to_owned()
}
