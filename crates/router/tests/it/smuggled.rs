//! No client gets a second request past the router to a tenant: runs the engine's table against the
//! router.

use std::os::unix::net::UnixListener;

use protocol::State;
use protocol::headers::PROOF;
use protocol::spec::Desired;
use service::keys;

use crate::harness::{Running, TempDir, master};
use crate::smuggling::{Recorder, run};
use crate::tenant::Tenant;

#[test]
fn nobody_gets_a_second_request_past_the_router() {
    let folder = TempDir::new("router").unwrap();
    let tenant = Tenant::new(&folder, 1, "acme");
    // A stricter server listens in the tenant's place.
    std::fs::remove_file(&tenant.socket).unwrap();
    let listener = UnixListener::bind(&tenant.socket).unwrap();
    let proof = format!("{PROOF}: {}\r\n", keys::route_proof(&master(), tenant.id));
    let upstream = Recorder::new(move || listener.accept().unwrap().0, &proof);
    let route = tenant.route(State::Running, Desired::Running);
    let (_control, router) = Running::knowing(vec![route], &folder);
    run(router.public, "acme.localhost", &upstream);
    router.end();
}
