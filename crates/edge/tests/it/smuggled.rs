//! No client gets a second request past the public entry of a tenant: runs the engine's table
//! against the edge.

use std::net::TcpListener;

use edge::public_paths::PublicPaths;
use edge::{Settings, UpstreamAddresses};
use tokio_util::sync::CancellationToken;

use crate::smuggling::{Recorder, run};

#[test]
fn no_request_is_smuggled_through_the_edge() {
    let platform = TcpListener::bind("127.0.0.1:0").unwrap();
    let nowhere = tempfile::tempdir().unwrap();
    let insides = UpstreamAddresses {
        core_back: nowhere.path().join("back.sock"),
        core_front: nowhere.path().join("front.sock"),
        platform_front: platform.local_addr().unwrap().to_string(),
    };
    let upstream = Recorder::new(move || platform.accept().unwrap().0, "");
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    door.set_nonblocking(true).unwrap();
    let address = door.local_addr().unwrap();
    let stop = CancellationToken::new();
    let (settings, stopped) = (
        Settings {
            route_token: None,
            upstreams: insides,
            public_paths: PublicPaths::default(),
            gauges_socket: nowhere.path().join("gauges.sock"),
        },
        stop.clone(),
    );
    let edge = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let doors = vec![proxy::Listener::Tcp(door)];
        runtime.unwrap().block_on(edge::serve(doors, settings, stopped)).unwrap();
    });
    run(address, "acme.localhost", &upstream);
    stop.cancel();
    edge.join().unwrap();
}
