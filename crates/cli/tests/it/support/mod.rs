//! Runs `cial` in a home of its own, and shows what it did as one text.

use std::io::Write as _;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use testkit::TempDir;
use testkit::peer::answering_tcp;

/// A home, its variables, and the texts that differ between runs.
pub(crate) struct Cial {
    home: TempDir,
    variables: Vec<(String, String)>,
    replacements: Vec<(String, &'static str)>,
}

impl Cial {
    /// A home without a configuration.
    pub(crate) fn new() -> Self {
        let home = TempDir::new("cli").unwrap();
        let replacements = vec![(home.path().display().to_string(), "HOME")];
        Self { home, variables: Vec::new(), replacements }
    }

    /// A home whose variables name a server and a key.
    pub(crate) fn at(server: &Server) -> Self {
        Self::new().server(&server.url()).variable("CIAL_API_KEY", "cial_test")
    }

    /// Names a server by its variable; its address differs between runs.
    pub(crate) fn server(mut self, url: &str) -> Self {
        let address = url.split("://").nth(1).unwrap_or(url).to_owned();
        self.replacements.push((address, "SERVER"));
        self.variable("CIAL_SERVER", url)
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn home(&self) -> &std::path::Path {
        self.home.path()
    }

    /// Writes a file below the home, for its owner alone.
    pub(crate) fn file(self, path: &str, text: &str) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.home.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        self
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.environment(Command::new(env!("CARGO_BIN_EXE_cial")), args)
    }

    /// Another program with the variables of this home.
    pub(crate) fn program(&self, program: &str, args: &[&str]) -> Command {
        self.environment(Command::new(program), args)
    }

    fn environment(&self, mut command: Command, args: &[&str]) -> Command {
        command.args(args).env_clear().env("HOME", self.home.path()).env("PATH", "/usr/bin:/bin");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command without a terminal, and shows its exit code and both outputs.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        self.run_with_input(args, "")
    }

    pub(crate) fn run_with_input(&self, args: &[&str], input: &str) -> String {
        let mut child = self.spawn(args);
        // A command that does not read its input may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        self.show(args, &child.wait_with_output().unwrap())
    }

    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs a command on a terminal on which somebody types `input`; a terminal has one output.
    pub(crate) fn run_on_terminal(&self, args: &[&str], input: &str) -> String {
        let line = format!("{} {}", env!("CARGO_BIN_EXE_cial"), args.join(" "));
        let script = self.environment(Command::new("script"), &["-qec", &line, "/dev/null"]);
        let mut child = { script }
            .env("TERM", "dumb")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        self.show(args, &output).replace('\r', "")
    }

    pub(crate) fn show(&self, args: &[&str], output: &Output) -> String {
        let code = output.status.code().map_or("signal".to_owned(), |code| code.to_string());
        let text = format!(
            "$ cial {}\nexit code {code}\n--- standard output\n{}--- standard error\n{}",
            args.join(" "),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        let seconds = without_seconds(&text);
        self.replacements.iter().fold(seconds, |text, (from, to)| text.replace(from, to))
    }
}

/// Replaces the times of steps, like `(0.3 s)`.
fn without_seconds(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.split('\n') {
        let is_step = line.starts_with(['✔', '✘']) && line.ends_with(" s)");
        match line.rfind(" (").filter(|_| is_step) {
            Some(at) => lines.push(format!("{} (TIME)", &line[..at])),
            None => lines.push(line.to_owned()),
        }
    }
    lines.join("\n")
}

/// A server that answers by a function, and remembers the requests.
pub(crate) struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// `respond` gets the number of the request, beginning with 0, and its text.
    pub(crate) fn new(mut respond: impl FnMut(usize, &str) -> Vec<u8> + Send + 'static) -> Self {
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let remembered = Arc::clone(&requests);
        let peer = answering_tcp(move |request| {
            let number = {
                let mut requests = remembered.lock().unwrap();
                requests.push(request.to_owned());
                requests.len() - 1
            };
            respond(number, request)
        });
        Self { port: peer.unwrap().port(), requests }
    }

    /// A server with one response to everything.
    pub(crate) fn always(response: impl Into<Vec<u8>>) -> Self {
        let response = response.into();
        Self::new(move |_, _| response.clone())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The first lines of the requests, without the protocol.
    pub(crate) fn requests(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let line = |text: &String| text.lines().next().unwrap_or_default().replace(" HTTP/1.1", "");
        requests.iter().map(line).collect()
    }

    /// Whole requests.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// A response with more headers than its length and type.
pub(crate) fn response(status: &str, headers: &str, kind: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\n{headers}content-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

pub(crate) fn json(status: &str, body: &Value) -> Vec<u8> {
    response(status, "", "application/json", &body.to_string())
}

/// The problem of a tenant that does not exist.
pub(crate) fn no_tenant() -> Vec<u8> {
    let detail = "There is no tenant of this name.";
    problem("404 Not Found", "", "tenant_not_found", detail, Value::Null)
}

/// An error as the API sends it.
pub(crate) fn problem(
    status: &str,
    headers: &str,
    code: &str,
    detail: &str,
    errors: Value,
) -> Vec<u8> {
    let number: u16 = status[..3].parse().unwrap();
    let mut body = serde_json::json!({
        "type": format!("urn:cial:problem:{code}"), "title": &status[4..], "status": number,
        "detail": detail, "code": code, "request_id": "req-1",
    });
    if errors.is_array() {
        body["errors"] = errors;
    }
    response(status, headers, "application/problem+json", &body.to_string())
}

/// A tenant as the API shows it.
pub(crate) fn tenant(slug: &str, state: &str) -> Value {
    serde_json::json!({
        "id": "0192f0c4-0000-7000-8000-000000000001", "slug": slug, "name": format!("Tenant {slug}"),
        "url": format!("http://{slug}.localhost:8080"), "desired": "running", "state": state,
        "state_since": "2020-01-01T00:00:00.000Z", "state_reason": null, "revision": 3, "generation": 1,
        "container_port": 49153, "awake_because": [], "asleep_because": null,
        "created_at": "2020-01-01T00:00:00.000Z",
    })
}
