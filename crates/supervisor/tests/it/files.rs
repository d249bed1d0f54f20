//! The file server: a process of `agent` that opens what `agent` may open below one folder, and nothing else.

use std::fs::{self, File, Permissions};
use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::Pid;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use crate::stage::Stage;

const AGENT: Option<u32> = Some(protocol::inside::AGENT_UID);

struct Server {
    stage: Stage,
    volume: PathBuf,
    socket: PathBuf,
}

impl Server {
    fn start() -> Self {
        let mut stage = Stage::play("core-back:hear");
        stage.line(|line| line == "[core-back] heard all-ready");
        let volume = stage.directory.join("files");
        let socket = stage.directory.join("core/files.sock");
        Self { stage, volume, socket }
    }

    /// Sends the text as it is.
    fn send(&self, request: &str) -> io::Result<(Value, Option<OwnedFd>)> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.write_all(request.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut reply = vec![0; 1 << 20];
        let mut chunks = [IoSliceMut::new(&mut reply)];
        let message = recvmsg(&stream, &mut chunks, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let file = control.drain().find_map(|received| {
            let RecvAncillaryMessage::ScmRights(mut files) = received else { return None };
            files.next()
        });
        reply.truncate(message.bytes);
        stream.read_to_end(&mut reply)?;
        Ok((serde_json::from_slice(&reply)?, file))
    }

    fn call(&self, request: &Value) -> Value {
        self.send(&request.to_string()).unwrap().0
    }

    /// The kind of failure, or the reply.
    fn outcome(&self, request: &Value) -> String {
        let reply = self.call(request);
        let word = reply.get("kind").or_else(|| reply.get("reply"));
        word.and_then(Value::as_str).unwrap().to_owned()
    }

    fn open(&self, path: &str) -> String {
        self.outcome(&json!({ "op": "open", "path": path }))
    }

    /// Writes a file of a program of the app.
    fn plant(&self, name: &str, text: &str) -> PathBuf {
        let path = self.volume.join(name);
        fs::write(&path, text).unwrap();
        chown(&path, AGENT, AGENT).unwrap();
        path
    }

    /// The processes that serve files of this stage.
    fn processes(&self) -> Vec<Pid> {
        let command = format!("\0files\0{}\0", self.volume.display());
        let numbers = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            entry.unwrap().file_name().to_str().and_then(|name| name.parse().ok())
        });
        let is_server = |pid: &i32| {
            let args = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            args.ends_with(command.as_bytes())
        };
        numbers.filter(is_server).map(Pid::from_raw).collect()
    }
}

fn wait_until(done: impl Fn() -> bool) {
    let mut tries = 0..6_000;
    while !done() {
        tries.next().expect("it takes a minute");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn it_is_agent_without_any_capability_and_ends_with_pid_1() {
    let server = Server::start();
    let processes = server.processes();
    let [pid] = processes.as_slice() else { panic!("{processes:?}") };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let wanted = ["Uid", "Gid", "Groups", "NoNewPrivs", "CapInh", "CapPrm", "CapEff", "CapBnd"];
    let lines = status.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    let lines: Vec<_> =
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    Uid: 1001 1001 1001 1001
    Gid: 1001 1001 1001 1001
    Groups:
    CapInh: 0000000000000000
    CapPrm: 0000000000000000
    CapEff: 0000000000000000
    CapBnd: 0000000000000000
    NoNewPrivs: 1
    ");
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert_eq!(open, 4, "the listening socket and its copy, and two streams that lead nowhere");
    server.stage.signal(Signal::SIGTERM);
    assert_eq!(server.stage.end().0, Some(0));
    // A process that ended and waits for its parent has no arguments.
    wait_until(|| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().is_empty());
}

#[test]
fn its_end_leaves_the_tenant_alone_and_is_noticed_at_once() {
    let server = Server::start();
    kill(server.processes()[0], Signal::SIGKILL).unwrap();
    wait_until(|| {
        let refused = server.send("{}").map_err(|error| error.kind());
        matches!(refused, Err(io::ErrorKind::ConnectionRefused))
    });
    server.stage.signal(Signal::SIGTERM);
    assert_eq!(server.stage.end().0, Some(0), "the tenant ran until it was stopped");
}

#[test]
fn what_it_makes_belongs_to_the_app() {
    let server = Server::start();
    let id = "0192f0c1-2345-7abc-8def-0123456789ab";
    let begin = json!({ "op": "open_upload", "id": id, "is_new": true }).to_string();
    let (_, file) = server.send(&begin).unwrap();
    File::from(file.unwrap()).write_all(b"text").unwrap();
    for request in [
        json!({ "op": "make_folder", "path": "made" }),
        json!({ "op": "finish_upload", "id": id, "path": "made/file", "replace": false }),
    ] {
        assert_eq!(server.outcome(&request), "done", "{request}");
    }
    assert_eq!(fs::read_to_string(server.volume.join("made/file")).unwrap(), "text");
    for (name, mode) in [("made", 0o750), ("made/file", 0o640), (".cial-uploads", 0o700)] {
        let made = fs::metadata(server.volume.join(name)).unwrap();
        assert_eq!((made.uid(), made.gid()), (1001, 1001), "{name}");
        assert_eq!(made.permissions().mode() & 0o7777, mode, "{name}");
    }
}

#[test]
fn files_of_others_and_what_the_app_closed_stay_closed() {
    let server = Server::start();
    fs::write(server.volume.join("of-root"), "secret").unwrap();
    fs::set_permissions(server.volume.join("of-root"), Permissions::from_mode(0o600)).unwrap();
    let of_core = server.plant("of-core", "secret");
    fs::set_permissions(&of_core, Permissions::from_mode(0o600)).unwrap();
    chown(&of_core, Some(1000), Some(1000)).unwrap();
    fs::create_dir(server.volume.join("closed")).unwrap();
    fs::write(server.volume.join("closed/file"), "secret").unwrap();
    fs::set_permissions(server.volume.join("closed"), Permissions::from_mode(0o700)).unwrap();
    let shut = server.plant("shut", "own");
    fs::set_permissions(&shut, Permissions::from_mode(0o0)).unwrap();
    for path in ["of-root", "of-core", "closed/file", "shut"] {
        assert_eq!(server.open(path), "denied", "{path}");
    }
    let list = json!({ "op": "list", "folder": "closed", "after": null, "limit": 10 });
    assert_eq!(server.outcome(&list), "denied");
    let put = json!({ "op": "move", "from": "shut", "to": "closed/x", "replace": true });
    assert_eq!(server.outcome(&put), "denied");
    server.plant("open", "own");
    assert_eq!(server.open("open"), "opened");
}

#[test]
fn links_pipes_sockets_and_devices_of_a_program_lead_nowhere() {
    let server = Server::start();
    let at = |name: &str| server.volume.join(name);
    server.plant("own", "own");
    fs::create_dir(at("folder")).unwrap();
    for (target, name) in [
        ("/etc/passwd", "absolute"),
        ("../core/files.sock", "up"),
        ("own", "beside"),
        ("/", "root"),
        ("/proc/self/fd/0", "magic"),
        ("nowhere", "dangling"),
        ("loop", "loop"),
    ] {
        symlink(target, at(name)).unwrap();
    }
    nix::unistd::mkfifo(&at("pipe"), Mode::from_bits_truncate(0o666)).unwrap();
    mknod(&at("device"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 5)).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    for name in ["pipe", "device", "socket"] {
        fs::set_permissions(at(name), Permissions::from_mode(0o666)).unwrap();
    }
    for path in [
        "absolute",
        "up",
        "beside",
        "root",
        "root/etc/passwd",
        "magic",
        "dangling",
        "loop",
        "pipe",
        "device",
        "socket",
        "own/file",
        "folder",
    ] {
        assert_eq!(server.open(path), "conflict", "{path}");
    }
    for path in ["root/x", "own/x"] {
        assert_eq!(server.outcome(&json!({ "op": "make_folder", "path": path })), "conflict");
    }
    let list = json!({ "op": "list", "folder": "root", "after": null, "limit": 10 });
    assert_eq!(server.outcome(&list), "conflict");
    let list = server.call(&json!({ "op": "list", "folder": "", "after": null, "limit": 100 }));
    let kind = |name: &str| {
        let items = list["items"].as_array().unwrap().iter();
        items.filter(|item| item["name"] == name).map(|item| item["kind"].clone()).next()
    };
    for (name, expected) in [
        ("own", "file"),
        ("folder", "folder"),
        ("absolute", "other"),
        ("pipe", "other"),
        ("device", "other"),
        ("socket", "other"),
    ] {
        assert_eq!(kind(name), Some(json!(expected)), "{name}");
    }
    assert_eq!(server.open("own"), "opened", "nothing of it held the server up");
}

#[test]
fn a_request_that_is_none_does_no_harm() {
    let server = Server::start();
    let secret = server.stage.directory.join("secret");
    fs::write(&secret, "secret").unwrap();
    for path in ["../secret", secret.to_str().unwrap(), "a/../../secret", "", ".", "a//b", "a\0b"] {
        let reply = server.send(&json!({ "op": "open", "path": path }).to_string());
        let (reply, file) = reply.unwrap();
        assert_eq!((reply["reply"].as_str(), file.is_none()), (Some("failed"), true), "{path:?}");
    }
    for request in [
        "",
        "{",
        "[]",
        r#"{"op":"run"}"#,
        r#"{"op":"open","path":"a","more":1}"#,
        r#"{"op":"open_upload","id":"../x","is_new":true}"#,
        r#"{"op":"open_upload","id":"0192f0c1-2345-7abc-8def-0123456789ab","is_new":false}"#,
    ] {
        assert_eq!(server.send(request).unwrap().0["reply"], "failed", "{request}");
    }
    // It stops to read; what it answers, if anything, is no success.
    let huge = server.send(&format!("{{\"op\":\"{}\"}}", "x".repeat(1 << 20)));
    assert!(huge.is_err() || huge.unwrap().0["reply"] == "failed");
    // A silent client delays the next one for a bounded time.
    let _silent = UnixStream::connect(&server.socket).unwrap();
    server.plant("own", "own");
    assert_eq!(server.open("own"), "opened");
}

#[test]
fn names_that_are_no_text_hold_nothing_up() {
    let server = Server::start();
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9");
    fs::write(server.volume.join(name), "").unwrap();
    server.plant("own", "own");
    let list = server.call(&json!({ "op": "list", "folder": "", "after": null, "limit": 10 }));
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(list["items"][0]["name"], "own");
}
