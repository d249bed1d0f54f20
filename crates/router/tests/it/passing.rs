//! Streams, tunnels and limits through the whole router, and a shutdown that cuts no client off.

use crate::harness::{Client, Running, TempDir, eventually};
use crate::tenant::Tenant;

pub(crate) const WS: &str = "GET /ws HTTP/1.1\r\nHost: acme.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn the_first_event_of_a_stream_arrives_before_there_is_a_second() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    let mut client = Client::connect(router.public);
    client.send("GET /events HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    client.until("4\r\none\n\r\n");
}

#[test]
fn websockets_pass_and_end_with_1001_when_the_router_must_go() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    let address = router.public;
    let mut client = Client::connect(address);
    client.send(WS);
    let head = client.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 101 ") && !head.to_lowercase().contains("x-cial"), "{head}");
    client.send("\u{2}\u{5}hello");
    client.until("hello");
    router.ask_to_stop();
    eventually("nobody new is let in", || std::net::TcpStream::connect(address).is_err());
    client.send("\u{2}\u{5}still");
    client.until("\u{2}\u{5}still");
    drop(client);
    router.end();

    let quick = |settings: &mut router::settings::Settings| {
        settings.drain = std::time::Duration::from_secs(2);
    };
    let control = crate::harness::Control::start(1);
    control.feed.put(acme.running());
    let router = Running::with(control.address, &folder, quick);
    router.knows(control.feed.revision());
    let mut client = Client::connect(router.public);
    client.send(WS);
    client.until("\r\n\r\n");
    router.ask_to_stop();
    assert_eq!(client.rest(), [0x88, 0x02, 0x03, 0xe9]);
    drop(client);
    router.end();
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_sent() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    let post = "POST / HTTP/1.1\r\nHost: acme.localhost\r\nContent-Length: 51000000\r\n\r\n";
    let response = router.send(post);
    assert_eq!((response.status, response.code().as_str()), (413, "body_too_large"));
}

#[test]
fn a_thousand_requests_by_many_meet_no_error() {
    let folder = TempDir::new("router").unwrap();
    let tenants: Vec<_> = (1..5).map(|n| Tenant::new(&folder, n, &format!("acme-{n}"))).collect();
    let (_control, router) =
        Running::knowing(tenants.iter().map(Tenant::running).collect(), &folder);
    std::thread::scope(|scope| {
        for tenant in tenants.iter().cycle().take(20) {
            let public = router.public;
            scope.spawn(move || {
                let mut client = Client::connect(public);
                for n in 0..50 {
                    let (slug, path) = (&tenant.slug, format!("/{n}"));
                    client.send(format!("GET {path} HTTP/1.1\r\nHost: {slug}.localhost\r\n\r\n"));
                    let response = client.response();
                    let wanted = format!("Tenant {slug}\nGET {path} ");
                    assert!(
                        response.status == 200 && response.body.starts_with(&wanted),
                        "{response:?}"
                    );
                }
            });
        }
    });
}
