//! The router and its peers, each configured for the same job: forwarded headers, a request id,
//! removing the proof from the response, keeping connections, and no log. The peers lack the
//! router's other work (host to tenant, trusted headers, cookies, checking the proof).

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::control::{MASTER, TOKEN};
use super::process::{ChildProcess, INTERVAL, TIMEOUT, command};
use super::{Target, ToolProgram};
use crate::tools::load::HOST;

/// The environment of the peers.
pub(super) struct Setup<'a> {
    pub(super) folder: &'a Path,
    /// The socket of the backend.
    pub(super) socket: &'a Path,
    /// The address of app-api and the orchestrator, which one process plays.
    pub(super) control: SocketAddr,
    pub(super) router: &'a Path,
    pub(super) tools: &'a ToolProgram,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Router,
    Nginx,
    /// Forwards everything unchanged, which no installation does; only for comparison.
    BareNginx,
    /// Has buffers that hold a body of 64 KiB, because the default buffers double the cost of such
    /// a body.
    TunedNginx,
    Haproxy,
    TunedHaproxy,
    Relay {
        sleep_us: u64,
        spin: u64,
    },
}

pub(super) struct Peer {
    pub(super) kind: Kind,
    pub(super) port: u16,
    pub(super) process: ChildProcess,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Nginx => "nginx",
            Self::BareNginx => "nginx, bare",
            Self::TunedNginx => "nginx, tuned",
            Self::Haproxy => "haproxy",
            Self::TunedHaproxy => "haproxy, tuned",
            Self::Relay { sleep_us: 0, spin: 0 } => "relay",
            Self::Relay { .. } => "bad relay",
        }
    }
}

impl Peer {
    /// Starts the proxy with one thread or worker on `cpu`, directly or under `tool`. The proxy
    /// responds when this returns.
    pub(super) fn start(
        kind: Kind,
        setup: &Setup<'_>,
        cpu: Option<usize>,
        tool: &[String],
    ) -> Result<Self> {
        let port = free_port()?;
        let folder = setup.folder.join(format!("peer-{port}"));
        std::fs::create_dir(&folder)?;
        let (args, variables) = kind.args(setup, &folder, port, tool.is_empty())?;
        let args = tool.iter().chain(&args).map(String::as_str);
        let mut command: Command = command(cpu, args);
        command.envs(variables).stderr(std::fs::File::create(folder.join("stderr"))?);
        let mut process = ChildProcess::start(kind.name(), &mut command)?;
        let answered = process.until("an answer", || answers(setup, port).is_ok());
        let said = || std::fs::read_to_string(folder.join("stderr")).unwrap_or_default();
        answered.with_context(|| format!("{}: {}", kind.name(), said()))?;
        Ok(Self { kind, port, process })
    }
}

/// Waits for a response from a proxy that is not a child process of the bench.
pub(super) fn wait_for_answer(setup: &Setup<'_>, port: u16) -> Result<()> {
    let start = crate::now();
    while let Err(error) = answers(setup, port) {
        if start.elapsed() > TIMEOUT {
            return Err(error);
        }
        std::thread::sleep(INTERVAL);
    }
    Ok(())
}

/// Tests whether requests through this port reach the backend.
fn answers(setup: &Setup<'_>, port: u16) -> Result<()> {
    let stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    drop(stream);
    setup.load(None, Target::Port(port), "/600", &["--requests", "1", "--connections", "1"])?;
    Ok(())
}

pub(super) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

type Variables = Vec<(&'static str, String)>;

impl Kind {
    /// Returns the command line and the variables. `forks` allows a master process.
    fn args(
        self,
        setup: &Setup<'_>,
        folder: &Path,
        port: u16,
        forks: bool,
    ) -> Result<(Vec<String>, Variables)> {
        let text = |path: &Path| super::text(path).map(str::to_owned);
        let socket = text(setup.socket)?;
        let file = |name: &str, content: &str| -> Result<String> {
            let path: PathBuf = folder.join(name);
            std::fs::write(&path, content)?;
            text(&path)
        };
        let own = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect();
        Ok(match self {
            Self::Router => {
                let (app, token) = (format!("http://{}", setup.control), file("token", TOKEN)?);
                let variables = vec![
                    ("CIAL_INSTALL", "bench".to_owned()),
                    ("CIAL_LISTEN", format!("127.0.0.1:{port}")),
                    ("CIAL_INTERNAL_LISTEN", format!("127.0.0.1:{}", free_port()?)),
                    ("CIAL_APP_API_URL", app.clone()),
                    ("CIAL_ORCHESTRATOR_URL", app),
                    ("CIAL_ROUTES_TOKEN_FILE", token.clone()),
                    ("CIAL_LEASES_TOKEN_FILE", token),
                    ("CIAL_ROUTE_SECRET_FILE", file("route-secret", MASTER)?),
                    ("CIAL_ROUTES_CACHE", text(&folder.join("routes.json"))?),
                    ("CIAL_RATE_LIMIT", "off".to_owned()),
                    ("CIAL_THREADS", "1".to_owned()),
                    ("CIAL_DRAIN", "1".to_owned()),
                ];
                (vec![text(setup.router)?], variables)
            }
            Self::Nginx | Self::BareNginx | Self::TunedNginx => {
                let config = self.nginx(&text(folder)?, &socket, port, forks);
                let args = own(&["nginx", "-c", &file("nginx.conf", &config)?]);
                (args, Vec::new())
            }
            Self::Haproxy | Self::TunedHaproxy => {
                let config = haproxy(&socket, port, self == Self::TunedHaproxy);
                (own(&["haproxy", "-db", "-f", &file("haproxy.cfg", &config)?]), Vec::new())
            }
            Self::Relay { sleep_us, spin } => {
                let [port, sleep, spin] = [port.into(), sleep_us, spin].map(|n: u64| n.to_string());
                let args = ["relay", "--socket", &socket, "--port", &port, "--sleep-us", &sleep];
                (setup.tools.args(args.into_iter().chain(["--spin", &spin])), Vec::new())
            }
        })
    }

    fn nginx(self, folder: &str, socket: &str, port: u16, forks: bool) -> String {
        let master = if forks { "on" } else { "off" };
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("{what}_temp_path {folder}/{what};\n"))
            .concat();
        let job = if self == Self::BareNginx { NGINX_BARE } else { NGINX_JOB };
        let buffers = if self == Self::TunedNginx { NGINX_BUFFERS } else { "" };
        format!(
            "daemon off;
master_process {master};
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/pid;
error_log {folder}/error.log warn;
events {{ worker_connections 19500; }}
http {{
access_log off;
keepalive_requests 1000000000;
keepalive_timeout 1h;
{temporary}
upstream backend {{ server unix:{socket}; keepalive 128; keepalive_requests 1000000000; }}
server {{
listen 127.0.0.1:{port} backlog=4096;
server_name {HOST};
proxy_http_version 1.1;
{buffers}
location / {{ proxy_set_header Connection \"\"; {job} proxy_pass http://backend; }}
location /ws {{
proxy_set_header Upgrade $http_upgrade;
proxy_set_header Connection upgrade;
{job}
proxy_read_timeout 1h;
proxy_pass http://unix:{socket};
}}
}}
}}
"
        )
    }
}

const NGINX_BARE: &str = "proxy_set_header Host $host;";
const NGINX_JOB: &str = "proxy_set_header Host $host;
proxy_set_header X-Real-IP $remote_addr;
proxy_set_header X-Forwarded-For $remote_addr;
proxy_set_header X-Forwarded-Host $host;
proxy_set_header X-Forwarded-Proto $scheme;
proxy_set_header X-Request-Id $request_id;
add_header X-Request-Id $request_id;
proxy_hide_header X-Cial-Proof;";
const NGINX_BUFFERS: &str =
    "proxy_buffer_size 8k; proxy_buffers 4 64k; proxy_busy_buffers_size 128k;";

fn haproxy(socket: &str, port: u16, tuned: bool) -> String {
    let buffers = if tuned { "tune.bufsize 73728" } else { "" };
    format!(
        "global
nbthread 1
maxconn 9500
{buffers}
defaults
mode http
timeout connect 10s
timeout client 1h
timeout server 1h
timeout tunnel 1h
http-reuse always
frontend front
bind 127.0.0.1:{port}
unique-id-format %[uuid]
unique-id-header X-Request-Id
http-request set-header X-Real-IP %[src]
http-request set-header X-Forwarded-For %[src]
http-request set-header X-Forwarded-Host %[req.hdr(host)]
http-request set-header X-Forwarded-Proto http
http-response del-header X-Cial-Proof
http-response set-header X-Request-Id %[unique-id]
default_backend back
backend back
server backend unix@{socket}
"
    )
}
