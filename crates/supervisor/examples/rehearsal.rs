//! A stand-in tenant for the tests: the real PID 1 around five services that follow a script.
//!
//! `rehearsal DIRECTORY` supervises; under any other name, the program is one of the services.
//! `TENANT_ID` holds the script as `service:act` words. A service without a word in the script
//! reports ready and waits.

use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use listenfd::ListenFd;
use nix::sys::signal::{SigSet, Signal};
use protocol::inside::{START_APP, link, supervisor_commands};
use supervisor::Layout;

fn main() -> ExitCode {
    let mut args = std::env::args();
    let name = args.next().unwrap_or_default();
    let rest: Vec<_> = args.collect();
    if name.ends_with("rehearsal") {
        if rest[0] == supervisor::app::PROBE {
            return supervisor::probe::run(&rest[1..]);
        }
        if rest[0] == supervisor::files::FILES {
            return supervisor::files::run(&rest[1..]);
        }
        if rest[0] == supervisor_commands::START {
            return supervisor::hooks::start(&rest[1..], Some(&variable(START_APP)));
        }
        return supervisor::run(&layout(&rest[0]), std::env::vars_os().collect());
    }
    if name.ends_with("/app") {
        return serve_app();
    }
    let service = [vec![name], rest].concat().join("-");
    let script = variable("TENANT_ID");
    let acts = script.split_whitespace().filter_map(|word| word.split_once(':'));
    let acts: Vec<_> = acts.filter(|(whose, _)| *whose == service).map(|(_, act)| act).collect();
    serve(&acts)
}

/// A program of an app: listens on its port, reports itself, and answers each request with its
/// variables.
fn serve_app() -> ExitCode {
    let address = format!("127.0.0.1:{}", variable("PORT"));
    let listener = std::net::TcpListener::bind(address).expect("the port is free");
    report();
    for stream in listener.incoming() {
        let mut stream = stream.expect("a connection");
        let mut head = [0; 1024];
        // A probe without a path closes at once.
        let _ = std::io::Read::read(&mut stream, &mut head);
        let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
    }
    ExitCode::SUCCESS
}

fn layout(directory: &str) -> Layout {
    let directory = PathBuf::from(directory);
    let local = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    Layout {
        core_programs: directory.join("programs"),
        secrets: directory.join("secrets"),
        platform_programs: directory.join("programs"),
        ingress: directory.join("ingress/edge.sock"),
        core_back: directory.join("core/back.sock"),
        core_front: directory.join("core/front.sock"),
        core_busy: directory.join("core/busy.sock"),
        agent_busy: directory.join("agent/busy.sock"),
        orchestrator_api: directory.join("ingress/busy.sock"),
        files: directory.join("core/files.sock"),
        files_dir: directory.join("files"),
        public: local,
        platform_front: local,
        platform_back: local,
    }
}

fn serve(acts: &[&str]) -> ExitCode {
    let mut fds = ListenFd::from_env();
    let last = fds.len() - 1;
    let link = fds.take_unix_datagram(last).expect("the last is a link").expect("it is there");
    if acts.contains(&"stubborn") {
        SigSet::from(Signal::SIGTERM).thread_block().expect("a mask can be set");
    }
    if !acts.contains(&"silent") {
        link.send(link::READY).expect("PID 1 listens");
    }
    for act in acts {
        if let Some(code) = act.strip_prefix("exit=") {
            return ExitCode::from(code.parse::<u8>().expect("a code"));
        }
        perform(act, &link);
    }
    loop {
        std::thread::park();
    }
}

fn perform(act: &str, link: &UnixDatagram) {
    match act {
        "report" => report(),
        "partial" => print(b"no end"),
        "count" => count(),
        "fork" => leave_an_orphan(),
        "hear" => {
            let mut word = [0; 16];
            let length = link.recv(&mut word).expect("a word");
            print(&[b"heard ", &word[..length], b"\n"].concat());
        }
        "who" => print(format!("is {}\n", std::process::id()).as_bytes()),
        "stubborn" => print(b"will stay\n"),
        "silent" => {}
        other => panic!("unknown act {other}"),
    }
}

/// Prints lines in pieces on both streams, so that readers meet incomplete lines.
fn count() {
    for number in 0..2_000 {
        let line = format!("line {number} of both\n");
        let (head, tail) = line.split_at(7);
        print(head.as_bytes());
        eprint!("{head}");
        print(tail.as_bytes());
        eprint!("{tail}");
    }
    print(b"counted\n");
}

fn leave_an_orphan() {
    let mut shell = Command::new("sh");
    let output = shell.args(["-c", "true & echo orphan $!"]).output().expect("a shell");
    print(&output.stdout);
}

fn report() {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let wanted = ["Uid:", "Gid:", "Groups:", "NoNewPrivs:", "CapInh:", "CapPrm:", "CapEff:"];
    let wanted = wanted.into_iter().chain(["CapBnd:", "CapAmb:", "SigBlk:"]);
    for name in wanted {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or(name);
        print(line.split_whitespace().collect::<Vec<_>>().join(" ").as_bytes());
        print(b"\n");
    }
    let mut open: Vec<_> = std::fs::read_dir("/proc/self/fd")
        .expect("own descriptors")
        .filter_map(|entry| Some((entry.ok()?.file_name().into_string().ok()?, ())))
        .filter_map(|(name, ())| name.parse::<u32>().ok())
        .collect();
    open.sort_unstable();
    // The listing holds the descriptor of the directory itself.
    open.pop();
    print(format!("fds {open:?}\nreported\n").as_bytes());
}

fn print(bytes: &[u8]) {
    let mut out = std::io::stdout();
    out.write_all(bytes).and_then(|()| out.flush()).expect("PID 1 reads");
}

#[expect(clippy::disallowed_methods, reason = "a script's only way through PID 1's allow-list")]
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}
