//! A program that runs each body that it is sent, a JSON string without escapes, as a shell command, and answers with what
//! the command prints.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;

fn main() {
    let port = std::env::var("PORT").unwrap();
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
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
        stream.read_exact(&mut body).unwrap();
        let command = String::from_utf8(body).unwrap();
        let command = format!("exec 2>&1; {}", command.trim_matches('"'));
        let printed = Command::new("sh").args(["-c", &command]).output().unwrap().stdout;
        let length = printed.len();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(&[head.as_bytes(), &printed].concat());
    }
}
