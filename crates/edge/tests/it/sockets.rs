//! WebSockets pass on every class of route, through either listener, and meet the same checks.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::raw::send;
use crate::world::{SIGNED_IN, TOKEN, Tenant};

#[tokio::test]
async fn every_class_echoes() {
    let tenant = Tenant::open().await;
    for path in ["/ws", "/.cial/ws", "/.cial/api/ws"] {
        let stream = TcpStream::connect(tenant.tcp).await.unwrap();
        let url = format!("ws://acme.localhost{path}");
        let (mut socket, _) = client_async(url, stream).await.unwrap();
        for message in [Message::text("hello"), Message::binary(vec![7; 200_000])] {
            socket.send(message.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), message, "{path}");
        }
        socket.close(None).await.unwrap();
    }
}

#[tokio::test]
async fn the_ingress_socket_requires_the_route_token() {
    let tenant = Tenant::guarded().await;
    let request = || "ws://acme.localhost/ws".into_client_request().unwrap();

    let stream = UnixStream::connect(&tenant.ingress).await.unwrap();
    let Err(Error::Http(refused)) = client_async(request(), stream).await else {
        panic!("not refused");
    };
    assert_eq!(refused.status(), 404);

    let mut with_token = request();
    with_token.headers_mut().insert("x-cial-route-token", TOKEN.parse().unwrap());
    let stream = UnixStream::connect(&tenant.ingress).await.unwrap();
    let (mut socket, _) = client_async(with_token, stream).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
}

#[tokio::test]
async fn the_end_of_a_session_closes_its_sockets_and_no_others() {
    let tenant = Tenant::open().await;
    let open = async |path: &str, cookie: &'static str| {
        let stream = TcpStream::connect(tenant.tcp).await.unwrap();
        let mut request = format!("ws://acme.localhost{path}").into_client_request().unwrap();
        request.headers_mut().insert("cookie", cookie.parse().unwrap());
        let (mut socket, _) = client_async(request, stream).await.unwrap();
        socket.send(Message::text("hello")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"), "{path}");
        socket
    };
    let mut ending = Vec::new();
    for path in ["/ws", "/ws", "/.cial/ws", "/.cial/api/ws"] {
        ending.push((path, open(path, SIGNED_IN).await));
    }
    let mut anonymous = open("/ws", "cial_session=ended-long-ago").await;
    tenant.session_end.cancel();
    for (path, socket) in &mut ending {
        let closed = tokio::time::timeout(Duration::from_secs(30), socket.next()).await.unwrap();
        let Some(Ok(Message::Close(Some(frame)))) = closed else { panic!("{path}: {closed:?}") };
        assert_eq!(u16::from(frame.code), 1001, "{path}");
    }
    anonymous.send(Message::text("still here")).await.unwrap();
    assert_eq!(anonymous.next().await.unwrap().unwrap(), Message::text("still here"));
}

/// A client that opens many sockets, in any form of the cookie, occupies core-back with one request, and with none later.
#[tokio::test]
async fn the_sockets_of_a_session_share_one_request_to_core_back() {
    let tenant = Tenant::open().await;
    let mut sockets = Vec::new();
    for n in 0..50 {
        let cookies = [
            format!("a={n}; {SIGNED_IN}"),
            vec![SIGNED_IN; 1 + n % 7].join("; "),
            format!("{SIGNED_IN};__Host-cial_session={n}; cial_core={n}"),
        ];
        let stream = TcpStream::connect(tenant.tcp).await.unwrap();
        let mut request = "ws://acme.localhost/ws".into_client_request().unwrap();
        request.headers_mut().insert("cookie", cookies[n % 3].parse().unwrap());
        sockets.push(client_async(request, stream).await.unwrap());
    }
    let count = async |expected| {
        let reached = async || Ok(tenant.waiting() == expected);
        testkit::eventually("the count", Duration::from_secs(60), reached).await.unwrap();
    };
    count(1).await;
    drop(sockets);
    count(0).await;
}

#[tokio::test]
async fn clients_cannot_reach_the_session_lookups() {
    let tenant = Tenant::open().await;
    for (path, by) in [
        ("/.cial/session", Some("core-front")),
        ("/.cial/session/end", Some("core-front")),
        ("/.cial/api/.cial/session", None),
    ] {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: acme.localhost\r\nConnection: close\r\n\r\n");
        let response = send(tenant.tcp, &request).await;
        match by {
            Some(by) => assert_eq!(response.json()["by"], by),
            None => assert_eq!(response.status, 400, "{path}"),
        }
    }
}

/// A browser sends the session's cookie with a WebSocket that any page opens.
#[tokio::test]
async fn a_page_elsewhere_opens_no_socket_of_the_core() {
    let (open, guarded) = (Tenant::open().await, Tenant::guarded().await);
    let token = format!("X-Cial-Route-Token: {TOKEN}\r\n");
    let over_https = format!("{token}X-Forwarded-Proto: https\r\n");
    let own = "Origin: http://acme.localhost\r\n";
    for (tenant, path, lines, status) in [
        (&open, "/.cial/ws", "", 101),
        (&open, "/.cial/ws", own, 101),
        (&open, "/.cial/api/ws", "Origin: HTTP://ACME.localhost\r\n", 101),
        (&open, "/.cial/ws", "Origin: http://evil.localhost\r\n", 403),
        (&open, "/.cial/api/ws", "Origin: http://evil.localhost\r\n", 403),
        (&open, "/.cial/api/ws", "Origin: http://acme.localhost:81\r\n", 403),
        (&open, "/.cial/api/ws", "Origin: https://acme.localhost\r\n", 403),
        (&open, "/.cial/api/ws", "Origin: null\r\n", 403),
        (&open, "/.cial/api/ws", "Origin: http://acme.localhost.\u{e9}\r\n", 403),
        (&open, "/.cial/api/ws", "Origin: http://evil\r\nX-Forwarded-Host: evil\r\n", 403),
        (&open, "/.cial/api/ws", &format!("{own}Origin: http://evil\r\n"), 403),
        (&open, "/.cial/api/ws", "Origin: http://evil\r\nSec-Fetch-Site: none\r\n", 403),
        // The app decides whose pages may open a socket of the tenant's own app.
        (&open, "/ws", "Origin: http://evil.localhost\r\n", 101),
        (&guarded, "/.cial/ws", &format!("{token}{own}"), 101),
        (&guarded, "/.cial/ws", &format!("{over_https}{own}"), 403),
        (&guarded, "/.cial/ws", &format!("{over_https}Origin: https://acme.localhost\r\n"), 101),
    ] {
        let handshake = format!(
            "GET {path} HTTP/1.1\r\nHost: acme.localhost\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
        );
        let seen = opening(tenant, &handshake).await;
        assert_eq!(seen, status, "{path} {lines:?}");
    }
    let plain = "GET /.cial/api/x HTTP/1.1\r\nHost: acme.localhost\r\n\
        Origin: http://evil\r\nConnection: close\r\n\r\n";
    assert_eq!(send(open.tcp, plain).await.status, 200, "an ordinary request is not in question");
}

/// Returns the status of the response's first line.
async fn opening(tenant: &Tenant, handshake: &str) -> u16 {
    let mut stream = BufReader::new(TcpStream::connect(tenant.tcp).await.unwrap());
    stream.write_all(handshake.as_bytes()).await.unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    line.split(' ').nth(1).unwrap().parse().unwrap()
}
