//! Processes of two releases run side by side during an upgrade. A changed snapshot here changes the wire: keep the old
//! form readable.

use std::fmt::Debug;

use protocol::busy::{Busy, BusyLease, BusyList, BusyOwner, DeclareBusy, RenewBusy};
use protocol::control::{
    EffectivePolicy, LastWake as TenantLastWake, NewTenant, SignIn, SignUp, SignedIn, Tenant,
    TenantDatabase, TenantDisk, TenantList, User,
};
use protocol::leases::{
    LeaseGrant, LeaseRequest, LeaseUsage, ReleaseRequest, RenewRequest, RenewResponse,
    RenewedLease, RequestIntent, WakeProgress, WakeStep,
};
use protocol::orchestrator::{
    ApplyRequest, Capacity, DiskEnforcement, DiskUse, Exit, ObservedTenant, ObservedTenantList,
    Phase, QuotaService, TenantAtRevision, Upstream,
};
use protocol::problem::{Code, FieldCode};
use protocol::process::{AppSpec, Hooks};
use protocol::routes::Route;
use protocol::sessions::RevokeSessions;
use protocol::sleep::{IdleState, LastWake, SleepStatus, SleepStatusList, WakePhases};
use protocol::spec::{Desired, Limits, Policy, Spec, WakeOn};
use protocol::variables::{SealedAppEnv, SecretNames};
use protocol::watch::Message;
use protocol::{Problem, Slug, State, TenantId, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

/// How a reader treats a field that it does not know.
#[derive(Clone, Copy)]
enum UnknownFields {
    /// Responses: an old reader ignores the field of a new writer.
    Ignored,
    /// Requests: the service refuses them, because ignoring a wish would not do what the caller wants.
    Refused,
}
use UnknownFields::{Ignored, Refused};

/// Returns the JSON of `value` after these checks: it reads back, it treats an unknown field as `unknown` says, and it
/// reads without the fields in `optional`, as an older writer sends it.
fn wire<T>(value: &T, unknown: UnknownFields, optional: &[&str]) -> String
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let name = std::any::type_name::<T>();
    let json = serde_json::to_value(value).unwrap();
    assert_eq!(&serde_json::from_value::<T>(json.clone()).unwrap(), value, "{name}");
    let mut newer = json.clone();
    newer.as_object_mut().unwrap().insert("of_a_later_release".to_owned(), Value::Bool(true));
    match (unknown, serde_json::from_value::<T>(newer)) {
        (Ignored, read) => assert_eq!(&read.unwrap(), value, "{name}"),
        (Refused, read) => assert!(read.is_err(), "{name} accepts an unknown field"),
    }
    let mut older = json.clone();
    for field in optional {
        older.as_object_mut().unwrap().remove(*field);
        let read = serde_json::from_value::<T>(older.clone());
        assert!(read.is_ok(), "{name} without {field}: {read:?}");
    }
    format!("{} {json}", name.rsplit("::").next().unwrap())
}

fn id() -> TenantId {
    "0192f0c1-2345-7abc-8def-0123456789ab".parse().unwrap()
}

fn slug() -> Slug {
    "acme".parse().unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn phases() -> WakePhases {
    WakePhases { queue: 1, engine: 2, boot: 3, first_byte: Some(4) }
}

fn observed() -> ObservedTenant {
    ObservedTenant {
        id: id(),
        generation: 2,
        phase: Phase::Ready,
        container_id: "c0ffee".into(),
        container_port: Some(49_152),
        upstream: Some(Upstream::Unix("/run/cial/sockets/x/edge.sock".into())),
        lacks_spec: false,
        image_outdated: false,
        drift: std::collections::BTreeSet::new(),
        exits: 1,
        last_exit: Some(Exit { at: at(0), code: 137, out_of_memory: true, was_ready: true }),
        reason: Some("out of memory".into()),
        last_lines: Some("cial: the hook migrate exited with 3".into()),
    }
}

fn usage() -> LeaseUsage {
    LeaseUsage {
        tenant: id(),
        number: 7,
        idle_ms: 0,
        requests: 1,
        streams: 2,
        first_byte_ms: Some(31),
    }
}

fn route() -> Route {
    Route {
        tenant: id(),
        slug: slug(),
        generation: 2,
        desired: Desired::Running,
        state: State::Running,
        upstream: Some(Upstream::Tcp("127.0.0.1:8080".into())),
        sign_in_url: Some("http://localhost:3100/admin/tenants/acme/sign-in".into()),
        requires_sign_in: true,
    }
}

#[test]
fn router_and_orchestrator() {
    let holder = Uuid::from_u128(1);
    let lines = [
        wire(
            &LeaseRequest {
                tenant: id(),
                holder,
                number: 7,
                intent: RequestIntent::Visit,
                wait_ms: 60_000,
            },
            Refused,
            &[],
        ),
        wire(
            &LeaseGrant {
                tenant: id(),
                generation: 2,
                upstream: Upstream::Unix("/run/edge.sock".into()),
                expires_in_ms: 30_000,
                linger_ms: 5_000,
                woke: true,
            },
            Ignored,
            &[],
        ),
        wire(&RenewRequest { holder, leases: vec![usage()] }, Refused, &[]),
        wire(&ReleaseRequest { holder, leases: vec![usage()] }, Refused, &[]),
        wire(&usage(), Refused, &["requests", "streams", "first_byte_ms"]),
        wire(
            &RenewResponse {
                leases: vec![RenewedLease { tenant: id(), expires_in_ms: Some(30_000) }],
            },
            Ignored,
            &[],
        ),
        wire(&RenewedLease { tenant: id(), expires_in_ms: None }, Ignored, &[]),
        wire(
            &WakeProgress {
                step: WakeStep::Queued,
                ahead: Some(3),
                elapsed_ms: 12,
                reason: Some("r".into()),
            },
            Ignored,
            &["ahead", "reason"],
        ),
    ];
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn app_api_and_orchestrator() {
    let spec = Spec {
        id: id(),
        slug: slug(),
        generation: 2,
        image: Some("cial-tenant:dev".into()),
        env: [("GREETING".to_owned(), "hello".to_owned())].into(),
        sealed_env: Some("c2VhbGVk".into()),
        app_env: Some(SealedAppEnv { app: Uuid::nil(), sealed: "c2VhbGVk".into() }),
        database_user: Some("t_acme".into()),
        app: Some(AppSpec {
            command: Some(vec!["/bin/notes".into()]),
            port: Some(5000),
            health_path: Some("/up".into()),
            public_paths: vec!["/hooks/".into()],
            database: true,
            chat: Some("/chat".into()),
            hooks: Hooks {
                before_first_start: Some(vec!["/bin/notes".into(), "init".into()]),
                migrate: Some(vec!["/bin/notes".into(), "migrate".into()]),
                timeout_seconds: Some(90),
            },
            secrets: SecretNames {
                required: vec!["TOKEN".into()],
                optional: vec!["MAIL_KEY".into()],
            },
        }),
        limits: Limits::default(),
        policy: Policy::default(),
    };
    let status = SleepStatus {
        tenant: id(),
        phase: Some(Phase::Ready),
        awake_because: vec!["a request is under way".into()],
        asleep_because: None,
        freezes_at: Some(at(1)),
        sleeps_at: None,
        last_wake: Some(LastWake {
            at: at(2),
            from: IdleState::Frozen,
            total_ms: 10,
            phases_ms: phases(),
        }),
    };
    let lines = [
        wire(
            &spec,
            Refused,
            &["image", "env", "sealed_env", "app_env", "database_user", "app", "limits", "policy"],
        ),
        // From JSON, as the first release sent it.
        wire::<ApplyRequest>(
            &serde_json::from_value(json!({ "spec": spec, "run": true })).unwrap(),
            Refused,
            &["restart"],
        ),
        wire(&observed(), Ignored, &["container_port", "upstream", "last_exit", "reason"]),
        wire(&TenantAtRevision { revision: 7, tenant: observed() }, Ignored, &[]),
        wire(&ObservedTenantList { tenants: vec![observed()] }, Ignored, &[]),
        wire(
            &Capacity {
                networks_used: 1,
                networks_total: 8_192,
                engine_version: "28.0".into(),
                api_version: "1.48".into(),
                disk: None,
                quota: QuotaService::Failed("no response".into()),
            },
            Ignored,
            &["quota"],
        ),
        wire(
            &DiskUse {
                tenant: id(),
                used_bytes: Some(3 << 20),
                limit_bytes: 10 << 30,
                enforced_by: DiskEnforcement::Filesystem,
            },
            Ignored,
            &["used_bytes", "enforced_by"],
        ),
        wire(
            &status,
            Ignored,
            &["phase", "asleep_because", "freezes_at", "sleeps_at", "last_wake"],
        ),
        wire(&SleepStatusList { tenants: vec![status.clone()] }, Ignored, &[]),
    ];
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn feeds() {
    let messages = [
        Message::Snapshot { revision: 3, items: vec![route()] },
        Message::Changed { follows: 3, revision: 4, item: route() },
        Message::Gone { follows: 4, revision: 5, key: id() },
        Message::Heartbeat { revision: 5 },
    ];
    let mut lines = vec![wire(&route(), Ignored, &["upstream"])];
    for message in messages {
        let json = serde_json::to_string(&message).unwrap();
        assert_eq!(serde_json::from_str::<Message<Route>>(&json).unwrap(), message);
        lines.push(json);
    }
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn core_back_and_its_callers() {
    let busy = Busy { reason: "nightly backup".into(), owner: BusyOwner::Core, until: at(0) };
    let lines = [
        wire(&DeclareBusy { reason: "nightly backup".into(), ttl_seconds: 900 }, Refused, &[]),
        wire(&RenewBusy { ttl_seconds: 60 }, Refused, &[]),
        wire(&BusyLease { id: Uuid::from_u128(2), busy: busy.clone() }, Ignored, &[]),
        wire(&BusyList { busy: vec![busy] }, Ignored, &[]),
        wire(&RevokeSessions { sessions: vec![Uuid::from_u128(3)] }, Refused, &[]),
    ];
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn the_admin_api() {
    let user = User {
        id: Uuid::from_u128(4),
        email: "ada@example.com".into(),
        name: "Ada".into(),
        role: "owner".into(),
    };
    let tenant = Tenant {
        id: id(),
        slug: slug(),
        name: "Acme".into(),
        owner_id: Some(user.id),
        url: "http://acme.localhost:8080".into(),
        app: "notes".into(),
        release: Some("v2".into()),
        database: TenantDatabase {
            schema: "t_acme".into(),
            user: "t_acme".into(),
            version: Some("20261129000001".into()),
            failure: None,
        },
        pinned: false,
        desired: Desired::Running,
        state: State::Frozen,
        state_since: "2027-01-15T08:00:00.000Z".into(),
        state_reason: None,
        revision: 3,
        generation: 2,
        container_id: Some("c0ffee".into()),
        container_port: Some(49_152),
        limits: Limits::default(),
        policy: Policy { wake_on: Some(WakeOn::AnyRequest), ..Policy::default() },
        effective_policy: EffectivePolicy::default(),
        awake_because: Vec::new(),
        asleep_because: Some("no request for 60 s".into()),
        freezes_at: None,
        sleeps_at: Some("2027-01-15T08:20:00.000Z".into()),
        last_wake: Some(TenantLastWake {
            at: "2027-01-15T07:59:00.000Z".into(),
            from: IdleState::Sleeping,
            total_ms: 410,
            phases_ms: phases(),
        }),
        disk: Some(TenantDisk {
            used_bytes: Some(3 << 20),
            enforced_by: DiskEnforcement::Measurement,
        }),
        created_at: "2027-01-15T07:00:00.000Z".into(),
        updated_at: "2027-01-15T08:00:00.000Z".into(),
    };
    let optional = [
        "app",
        "release",
        "pinned",
        "effective_policy",
        "awake_because",
        "asleep_because",
        "freezes_at",
        "sleeps_at",
        "last_wake",
        "disk",
    ];
    let problem = Problem::new(Code::InvalidFields, "Some fields need another value.").field(
        "name",
        FieldCode::Required,
        "Enter a name.",
    );
    let (email, password) = ("ada@example.com".to_owned(), "correct horse".to_owned());
    let lines = [
        wire(
            &SignUp { email: email.clone(), password: password.clone(), name: "Ada".into() },
            Refused,
            &[],
        ),
        wire(&SignIn { email, password, code: None }, Refused, &["code"]),
        wire(&SignedIn { user }, Ignored, &[]),
        wire(
            &NewTenant {
                slug: "acme".into(),
                name: "Acme".into(),
                app: Some("notes".into()),
                release: Some("v1".into()),
            },
            Refused,
            &["app", "release"],
        ),
        wire(&tenant, Ignored, &optional),
        wire(
            &TenantList { tenants: vec![tenant.clone()], next_cursor: Some("c".into()) },
            Ignored,
            &["next_cursor"],
        ),
        wire(&problem, Ignored, &["errors"]),
    ];
    insta::assert_snapshot!(lines.join("\n"));
}
