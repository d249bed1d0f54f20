//! With the database's disk full, changes are refused by name; they succeed again once there is space. Needs root, for a
//! filesystem of its own.

use protocol::State;
use serde_json::json;
use testkit::SmallDisk;

use crate::harness::postgres::PrivateServer;
use crate::harness::{EMAIL, FakeOrchestrator, PASSWORD, Setup, TestClient, TestResponse, acme};

const DISK_BYTES: u64 = 300 << 20;
/// Far more sessions than the pages of the database have room for without growing.
const MAX_SIGN_INS: usize = 5_000;

async fn sign_in(client: &TestClient) -> TestResponse {
    let body = json!({ "email": EMAIL, "password": PASSWORD });
    client.new_client().post("/api/auth/sign-in/email", body).await
}

/// Postgres may have ended, when it could not even write its log.
fn assert_refused_by_name(response: &TestResponse) {
    let problem = response.problem();
    let names = ["507 disk_full", "503 database_unavailable"];
    assert!(names.contains(&problem.as_str()), "{}", response.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_refused_by_name_until_the_database_has_space() {
    let disk = SmallDisk::mount("postgres", DISK_BYTES).unwrap();
    let postgres = PrivateServer::start(disk.path().join("data"));
    let mut setup = Setup::new(FakeOrchestrator::obedient()).await;
    setup.url = postgres.url();
    let mut server = setup.start().await;
    let owner = server.sign_up().await;
    disk.fill().unwrap();

    let mut refused = None;
    for _ in 0..MAX_SIGN_INS {
        let response = sign_in(&server.visitor).await;
        if response.status != 200 {
            refused = Some(response);
            break;
        }
    }
    assert_refused_by_name(&refused.expect("the disk is full"));
    assert_eq!(server.visitor.get("/healthz").await.status, 200);

    disk.make_space().unwrap();
    postgres.ensure_running();
    server.wait_ready().await;
    assert_eq!(sign_in(&server.visitor).await.status, 200);
    assert_eq!(owner.post("/api/admin/tenants", acme()).await.status, 201);
    while owner.get("/api/admin/tenants/acme").await.json()["state"] != State::Running.as_str() {}
}
