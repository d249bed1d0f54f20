//! Connections under a small limit of open files: connections for clients, and a shortage on the router's
//! side that is reported as such.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use socket2::{Domain, Socket, Type};

use crate::harness::{Client, Control, PATIENCE, TempDir, eventually};
use crate::orchestrator::{FakeOrchestrator, Mode};
use crate::process::RouterProcess;
use crate::tenant::Tenant;

struct LimitedRouter {
    router: RouterProcess,
    control: Control,
    orchestrator: FakeOrchestrator,
    tenants: [Tenant; 3],
    _folder: TempDir,
}

impl LimitedRouter {
    fn start(domain: &str, file_limit: u32) -> Self {
        let folder = TempDir::new("router").unwrap();
        let tenants = [(1, "acme"), (2, "other"), (3, "third")]
            .map(|(number, slug)| Tenant::new(&folder, number, slug));
        let control = Control::start(1);
        control.feed.replace(tenants.iter().map(Tenant::running).collect());
        let orchestrator = FakeOrchestrator::start(&control.feed);
        let ends = (&control, &orchestrator);
        let router = RouterProcess::start_with_file_limit(&folder, file_limit, ends, |command| {
            command.env("CIAL_DOMAIN", domain);
        });
        let host = format!("acme.{domain}");
        eventually("the router serves", || router.serves(&host));
        Self { router, control, orchestrator, tenants, _folder: folder }
    }

    fn metric(&self, name: &str) -> u64 {
        let mut client = Client::connect(self.router.internal);
        client.send("GET /metrics HTTP/1.1\r\nHost: router:8081\r\n\r\n");
        let text = client.response().body;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// The limit of open files of the router from now on.
    fn set_file_limit(&self, limit: u64) {
        let pid = Pid::from_raw(self.router.child.id().cast_signed());
        let limits = Rlimit { current: Some(limit), maximum: Some(limit.max(300)) };
        prlimit(pid, Resource::Nofile, limits).unwrap();
    }
}

/// A client at this address of the machine.
fn connect_from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let source: SocketAddr = format!("{source}:0").parse().unwrap();
    socket.bind(&source.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

#[test]
fn silent_clients_beyond_the_limit_shut_nobody_out() {
    let limited = LimitedRouter::start("localhost", 300);
    let limit = limited.metric("cial_router_connections_limit");
    assert!((32..150).contains(&limit), "{limit} clients and their tenants fit into 300 files");
    // The clients outnumber the files. The router accepts each and evicts silent connections that
    // came earlier.
    let silent: Vec<_> = (0..330).map(|_| Client::connect(limited.router.public)).collect();
    for tenant in &limited.tenants {
        let host = format!("{}.localhost", tenant.slug);
        let response = limited.router.try_request(&host).unwrap();
        assert_eq!(response.status, 200, "{response:?}");
    }
    let mut client = Client::connect(limited.router.internal);
    client.send("GET /healthz HTTP/1.1\r\nHost: router:8081\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert!(limited.metric("cial_router_evicted_connections_total") > 0);
    assert!(limited.metric("cial_router_connections_current") <= limit);
    assert_eq!(limited.metric("cial_router_orchestrator_up"), 1);
    drop(silent);
}

#[test]
fn one_address_gets_a_share_of_the_connections() {
    // A public installation: on loopback everyone comes from one address.
    let limited = LimitedRouter::start("tenants.example", 300);
    let limit = usize::try_from(limited.metric("cial_router_connections_limit")).unwrap();
    let greedy: Vec<_> =
        (0..limit).map(|_| connect_from("127.0.0.1", limited.router.public)).collect();
    let get = |mut stream: TcpStream| {
        let request = b"GET / HTTP/1.1\r\nHost: acme.tenants.example\r\nConnection: close\r\n\r\n";
        let mut text = Vec::new();
        let sent = stream.write_all(request).and_then(|()| stream.read_to_end(&mut text));
        sent.is_ok() && text.starts_with(b"HTTP/1.1 200 ")
    };
    for other in ["127.0.0.2", "127.0.0.3"] {
        assert!(get(connect_from(other, limited.router.public)), "{other} is accepted");
    }
    let served = greedy.into_iter().map(get).filter(|served| *served).count();
    assert!(served >= 1 && served <= limit / 4, "{served} of {limit} connections for one address");
    assert!(limited.metric("cial_router_refused_connections_total") > 0);
}

#[test]
fn too_low_a_limit_is_a_refusal_to_start() {
    let folder = TempDir::new("router").unwrap();
    let control = Control::start(1);
    let orchestrator = FakeOrchestrator::start(&control.feed);
    let ends = (&control, &orchestrator);
    let mut router = RouterProcess::start_with_file_limit(&folder, 100, ends, |_| {});
    router.wait_for_log("the limit of open files is 100, and at least");
    assert_eq!(router.child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_shortage_of_descriptors_is_neither_an_absent_tenant_nor_an_absent_orchestrator() {
    let limited = LimitedRouter::start("localhost", 300);
    let [_, other, third] = &limited.tenants;
    limited.orchestrator.set_mode(third.id, Mode::Sleeping);
    let mut clients = [(); 3].map(|()| Client::connect(limited.router.public));
    let get = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}.localhost\r\n\r\n");
    // The router accepts all clients while descriptors remain.
    for client in &mut clients {
        client.send(get("acme"));
        assert_eq!(client.response().status, 200);
    }
    let [first, second, third_client] = &mut clients;
    // The request holds the connection to the orchestrator for as long as the wake lasts.
    third_client.send(get("third"));
    eventually("the wake is requested", || {
        limited.orchestrator.lease_requests().iter().any(|request| request.tenant == third.id)
    });
    limited.set_file_limit(3);
    for client in [first, second] {
        client.send(get("other"));
        let response = client.response();
        assert_eq!((response.status, response.code().as_str()), (503, "out_of_resources"));
        assert!(response.has("retry-after: "), "{response:?}");
    }
    limited.set_file_limit(300);
    assert_eq!(
        limited.metric("cial_router_orchestrator_up"),
        1,
        "a shortage here is no absence there"
    );
    assert_eq!(limited.metric("cial_router_unleased_total"), 0);
    assert!(limited.router.serves("other.localhost"));
    limited.orchestrator.set_mode(third.id, Mode::Awake);
    assert_eq!(third_client.response().status, 200, "the one that waited is served");
    assert!(!other.heads().is_empty());
    drop(limited.control);
}
