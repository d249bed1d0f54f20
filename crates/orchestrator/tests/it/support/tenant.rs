//! A stand-in for a tenant: one static program that opens the ingress socket as PID 1 of a real
//! tenant does and answers every request with 200. The variable `MODE` selects its behavior.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::exit;
use std::thread;
use std::time::Duration;

const UNFINISHED: &str = "/run/cial/ingress/.edge.sock";
const SOCKET: &str = "/run/cial/ingress/edge.sock";
const STARTS: &str = "/var/lib/cial/starts";
const BUSY: &str = "/run/cial/ingress/busy.sock";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("run-command") => run_command(&arguments[1..]),
        Some("run-task") => run_task(),
        Some("end-command") => end_command(&arguments[1]),
        Some(path) => return write_until_refused(path, arguments[1].parse().expect("a number")),
        None => {}
    }
    println!("\u{1b}[32mhello\u{1b}[0m from the tenant");
    eprintln!("and its other stream");
    let mode = std::env::var("MODE").unwrap_or_default();
    if mode == "exits" {
        exit(3);
    }
    println!("start {} on this volume", count_starts());
    if mode == "fills" {
        fs::write("/var/lib/cial/filler", vec![1; 8 << 20]).expect("write");
    }
    if mode != "mute" {
        serve_busy_list(&mode);
    }
    let _ = fs::remove_file(UNFINISHED);
    let listener = UnixListener::bind(UNFINISHED).expect("bind");
    fs::rename(UNFINISHED, SOCKET).expect("rename");
    match mode.as_str() {
        // The request waits in the accept queue, for longer than a busy engine takes to report a start.
        "slow" => thread::sleep(Duration::from_secs(5)),
        "never" => loop {
            thread::park();
        },
        _ => {}
    }
    let public = TcpListener::bind("0.0.0.0:8080").expect("bind :8080");
    thread::spawn(move || {
        for stream in public.incoming().flatten() {
            respond(stream);
        }
    });
    for stream in listener.incoming().flatten() {
        respond(stream);
        if mode == "answers-then-exits" {
            exit(4);
        }
    }
}

/// A command for tests: appends at most so many bytes to a file. Prints how many it wrote, and the system's error if there
/// was one.
fn write_until_refused(path: &str, bytes: usize) {
    let piece = [1; 64 << 10];
    let mut written = 0;
    let mut append = || {
        let mut file = fs::File::options().append(true).create(true).open(path)?;
        while written < bytes {
            written += file.write(&piece)?;
        }
        file.sync_data()
    };
    let error = append().err().and_then(|error| error.raw_os_error());
    println!("{written} {}", error.unwrap_or(0));
}

/// Stands in for a command: shows who it is, and writes its input out again, or waits for its end.
fn run_command(argv: &[String]) -> ! {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let of = |word: &str| status.lines().find(|line| line.starts_with(word)).unwrap_or_default();
    println!("{argv:?} {} {} {}", of("Uid:"), of("Groups:"), of("CapEff:"));
    if argv == ["waits"] {
        let id = std::env::var("CIAL_COMMAND_ID").expect("the id of the command");
        while !fs::exists(end_of_command(&id)).expect("/tmp") {
            thread::sleep(Duration::from_millis(10));
        }
        exit(137);
    }
    std::io::copy(&mut std::io::stdin(), &mut std::io::stdout()).expect("copy");
    eprintln!("at the end");
    exit(7);
}

/// Stands in for a task: reads its input, shows what arrived, and ends at once or with its input.
fn run_task() -> ! {
    let mut input = std::io::stdin().lock();
    let mut frames = Vec::new();
    loop {
        let mut length = [0; 4];
        input.read_exact(&mut length).expect("a length");
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        input.read_exact(&mut frame).expect("a frame");
        if frame.is_empty() {
            break;
        }
        frames.push(frame);
    }
    let bytes: usize = frames.iter().skip(1).map(Vec::len).sum();
    println!("job {} and {bytes} bytes", String::from_utf8_lossy(&frames[0]));
    if frames[0] == b"waits" {
        std::io::copy(&mut input, &mut std::io::sink()).expect("the end of the input");
        exit(9);
    }
    exit(0);
}

/// Ends the command that waits under this id: it looks for this file.
fn end_command(id: &str) -> ! {
    fs::write(end_of_command(id), "").expect("write");
    exit(0);
}

fn end_of_command(id: &str) -> String {
    format!("/tmp/end-of-{id}")
}

/// Serves the busy list: in one mode a backup without an end, otherwise nothing.
fn serve_busy_list(mode: &str) {
    let busy = match mode {
        "busy" => r#"{"reason":"backup","owner":"core","until":"2099-01-01T00:00:00Z"}"#,
        _ => "",
    };
    let body = format!("{{\"busy\":[{busy}]}}");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", body.len());
    let response = format!("{head}Connection: close\r\n\r\n{body}");
    let _ = fs::remove_file(BUSY);
    let listener = UnixListener::bind(BUSY).expect("bind");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(response.as_bytes());
        }
    });
}

/// Counts the starts of a stand-in on this volume, for tests of whether files outlive containers.
fn count_starts() -> usize {
    let mut file = fs::File::options().append(true).read(true).create(true).open(STARTS);
    let file = file.as_mut().expect("the data volume is the tenant's own");
    file.write_all(b".").expect("write");
    fs::read(STARTS).expect("read").len()
}

fn respond(mut stream: impl Read + Write) {
    let mut head = [0; 4096];
    let _ = stream.read(&mut head);
    let _ = stream.write_all(ANSWER);
}
