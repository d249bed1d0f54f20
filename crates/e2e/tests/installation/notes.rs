//! A program that knows nothing of the platform: answers every request on `PORT` with its version, its user and who
//! visits it, and counts its visits in a file.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

fn main() {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let listener = TcpListener::bind(format!("127.0.0.1:{}", variable("PORT"))).unwrap();
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
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let email = head.lines().find_map(|line| line.strip_prefix("x-cial-email: "));
        let file = "/home/agent/files/visits";
        let visits = std::fs::read_to_string(file).map_or(0, |text| text.len()) + 1;
        std::fs::write(file, "x".repeat(visits)).unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap().trim();
        let uid = uid.split('\t').next().unwrap();
        let (version, email) = (variable("VERSION"), email.unwrap_or("nobody"));
        let body = format!("notes {version} as {uid} for {email}, visit {visits}");
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all((head + &body).as_bytes());
    }
}
