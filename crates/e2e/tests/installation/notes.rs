//! A program that knows nothing of the platform: answers every request on `PORT` with its version, its user and who
//! visits it, and counts its visits in a file. `/slow` takes three seconds, `/header/NAME` is answered with that header,
//! `/variable/NAME` with that variable, and `/journal` with the hooks that ran. Some versions do not work: `broken` where
//! it finds visits, `dies` never, `elsewhere` on another port; and the hook `migrate` of `spoils` fails.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

const JOURNAL: &str = "/home/agent/files/journal";

fn main() {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let file = "/home/agent/files/visits";
    if let Some(hook) = std::env::args().nth(1) {
        return run_hook(&hook, &variable("VERSION"));
    }
    let mut port = variable("PORT");
    match variable("VERSION").as_str() {
        "broken" if std::path::Path::new(file).exists() => {
            eprintln!("cannot read the visits of an earlier version");
            std::process::exit(1);
        }
        "dies" => {
            eprintln!("cannot start at all");
            std::process::exit(1);
        }
        "elsewhere" => port = "4567".to_owned(),
        _ => {}
    }
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
            head.push(byte[0]);
        }
        // A probe of the port sends nothing.
        if head.is_empty() {
            continue;
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default();
        if let Some(name) = path.strip_prefix("/variable/") {
            let value = std::env::var(name).unwrap_or_else(|_| "unset".to_owned());
            respond(&mut stream, &value);
            continue;
        }
        if path == "/journal" {
            respond(&mut stream, std::fs::read_to_string(JOURNAL).unwrap_or_default().trim());
            continue;
        }
        if let Some(wanted) = path.strip_prefix("/header/") {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            let mut named = lines.filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
            respond(&mut stream, named.next().map_or("none", |(_, value)| value));
            continue;
        }
        if path == "/slow" {
            std::thread::sleep(std::time::Duration::from_secs(3));
        }
        let head = head.to_lowercase();
        let email = head.lines().find_map(|line| line.strip_prefix("x-cial-email: "));
        let visits = std::fs::read_to_string(file).map_or(0, |text| text.len()) + 1;
        std::fs::write(file, "x".repeat(visits)).unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap().trim();
        let uid = uid.split('\t').next().unwrap();
        let (version, email) = (variable("VERSION"), email.unwrap_or("nobody"));
        let body = format!("notes {version} as {uid} for {email}, visit {visits}");
        respond(&mut stream, &body);
    }
}

/// Notes in the journal that the hook ran.
fn run_hook(hook: &str, version: &str) {
    let mut journal = std::fs::File::options().append(true).create(true).open(JOURNAL).unwrap();
    write!(journal, "{hook}-{version} ").unwrap();
    if version == "spoils" && hook == "migrate" {
        std::fs::remove_file("/home/agent/files/visits").unwrap_or_default();
        eprintln!("cannot understand the visits");
        std::process::exit(4);
    }
}

fn respond(stream: &mut TcpStream, body: &str) {
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all((head + body).as_bytes());
}
