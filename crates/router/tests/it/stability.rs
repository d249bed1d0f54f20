//! The router serves running tenants during an outage of the control plane, across a restart, and when the control
//! plane returns with changes.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::harness::{Control, Running, TempDir, eventually, nowhere};
use crate::orchestrator::Mode;
use crate::tenant::Tenant;

#[test]
fn with_app_api_gone_tenants_are_served_and_with_it_back_changes_arrive() {
    let folder = TempDir::new("router").unwrap();
    let (acme, other) = (Tenant::new(&folder, 1, "acme"), Tenant::new(&folder, 2, "other"));
    let (control, router) = Running::knowing(vec![acme.running()], &folder);
    let address = control.end();
    eventually("the loss is known", || router.health("control_plane") == "\"unreachable\"");
    let response = router.get("acme.localhost", "/");
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(router.health("status"), "\"ok\"");

    let control = Control::at(address, 1_000);
    control.feed.replace(vec![other.running()]);
    router.orchestrator().set_mode(other.id, Mode::Awake);
    router.orchestrator().set_upstream(other.id, 1, other.running().upstream.unwrap());
    router.knows(control.feed.revision());
    assert_eq!(router.get("other.localhost", "/").status, 200);
    assert_eq!(router.get("acme.localhost", "/").status, 404);
    assert_eq!(router.health("control_plane"), "\"connected\"");
}

#[test]
fn a_router_that_starts_alone_serves_what_was_known() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (control, router) = Running::knowing(vec![acme.running()], &folder);
    let revision = control.feed.revision();
    let kept = format!("\"revision\":{revision},");
    let cache = folder.path().join("routes.json");
    eventually("the table is on disk", || {
        std::fs::read_to_string(&cache).is_ok_and(|text| text.contains(&kept))
    });
    router.end();
    control.end();

    let router = Running::start(nowhere(), &folder);
    assert_eq!(router.get("acme.localhost", "/").status, 200, "from its first moment");
    assert_eq!(router.health("revision"), revision.to_string());
    assert_eq!(router.health("control_plane"), "\"unreachable\"");
    assert_eq!(router.get("nope.localhost", "/").status, 404);
    let text = std::fs::read_to_string(&cache).unwrap();
    let token = service::keys::route_token(&crate::harness::master(), acme.id);
    assert!(!text.contains(&token), "no secret on disk");
}

#[test]
fn a_router_that_knows_nothing_says_so() {
    let folder = TempDir::new("router").unwrap();
    for cache in [None, Some("{\"revision\":3,\"rou")] {
        if let Some(text) = cache {
            std::fs::write(folder.path().join("routes.json"), text).unwrap();
        }
        let router = Running::start(nowhere(), &folder);
        let response = router.get("acme.localhost", "/");
        assert_eq!((response.status, response.code().as_str()), (503, "starting"));
        assert!(response.has("retry-after: "));
        assert_eq!(router.health("status"), "\"starting\"");
        router.end();
    }
}

#[test]
fn changes_reach_a_router_that_serves() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (control, router) = Running::knowing(vec![], &folder);
    assert_eq!(router.get("acme.localhost", "/").status, 404);
    control.feed.put(acme.running());
    eventually("it is served", || router.get("acme.localhost", "/").status == 200);
    control.feed.remove(&acme.id);
    eventually("it is gone", || router.get("acme.localhost", "/").status == 404);
}

#[test]
fn whoever_casts_doubt_on_the_table_again_and_again_keeps_no_change_from_it() {
    let folder = TempDir::new("router").unwrap();
    let (acme, other) = (Tenant::new(&folder, 1, "acme"), Tenant::new(&folder, 2, "other"));
    let (control, router) = Running::knowing(vec![acme.running()], &folder);
    // Another tenant answers in its place.
    acme.listen(other.id);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                assert_eq!(router.get("acme.localhost", "/").status, 502);
            }
        });
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let before = control.snapshots();
            eventually("it lists anew", || control.snapshots() > before + 1);
            control.feed.put(other.running());
            router.knows(control.feed.revision());
        }));
        over.store(true, Relaxed);
        seen.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert_eq!(router.health("control_plane"), "\"connected\"");
}
