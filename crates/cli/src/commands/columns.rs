//! Each column of each table is a field of what the API sends.

use std::collections::{BTreeMap, BTreeSet};

use protocol::api_keys::{CreatedKey, Key, PrincipalKind, Role, WhoAmI};
use protocol::apps::{App, Release};
use protocol::audit::AuditEntry;
use protocol::backups::{Backup, BackupState};
use protocol::control::{EffectivePolicy, Tenant, TenantDatabase, User};
use protocol::executions::{
    Execution, ExecutionState, ExecutionSummary, ExecutionTask, ScheduledExecution, TaskState,
    Workflow,
};
use protocol::images::Registry;
use protocol::mails::WaitingMail;
use protocol::model::{ModelEndpoint, ModelUsageDay};
use protocol::packages::{Package, PackageKey, SignedBy, UploadedPackage};
use protocol::people::{CreatedInvitation, Invitation, Member, MemberRole, SessionInfo};
use protocol::process::Hooks;
use protocol::rollouts::{Rollout, RolloutState};
use protocol::spec::{Desired, Limits, Policy};
use protocol::triggers::{CatchUp, Trigger, TriggerKind};
use protocol::variables::{EnvVariable, SecretName, SecretNames};
use protocol::webhooks::{Delivery, Webhook};
use protocol::{State, TenantId};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    apps, audit, backups, executions, keys, mails, models, packages, people, registries, rollouts,
    tenants, triggers, variables, webhooks, whoami,
};
use crate::output::Shape;

/// Tables of what `cial` itself finds out.
const LOCAL: [&str; 5] = ["CHECKS", "PROFILES", "SETTINGS", "SETTINGS_WITH_ORIGIN", "VERSIONS"];

fn text() -> String {
    "2026-11-30T08:00:00.000Z".to_owned()
}

fn key() -> Key {
    Key {
        id: Uuid::nil(),
        name: text(),
        role: Role::Read,
        tenant: "acme".parse().ok(),
        person: Some(text()),
        is_admin: false,
        created_at: text(),
        expires_at: Some(text()),
        last_used_at: Some(text()),
        revoked: false,
    }
}

fn user() -> User {
    User { id: Uuid::nil(), email: text(), name: text(), role: text() }
}

fn tenant() -> Tenant {
    Tenant {
        id: TenantId::new(Uuid::nil()),
        slug: "acme".parse().unwrap(),
        name: text(),
        owner_id: Some(Uuid::nil()),
        url: text(),
        app: text(),
        release: Some(text()),
        database: TenantDatabase {
            schema: text(),
            user: text(),
            version: Some(text()),
            failure: Some(text()),
            used_bytes: Some(1),
            closed_because: Some(text()),
        },
        pinned: true,
        desired: Desired::Running,
        state: State::Running,
        state_since: text(),
        state_reason: Some(text()),
        revision: 1,
        generation: 1,
        container_id: Some(text()),
        container_port: Some(1),
        limits: Limits::default(),
        policy: Policy::default(),
        effective_policy: EffectivePolicy::default(),
        awake_because: vec![text()],
        asleep_because: Some(text()),
        freezes_at: Some(text()),
        sleeps_at: Some(text()),
        last_wake: None,
        disk: None,
        created_at: text(),
        updated_at: text(),
    }
}

fn session() -> SessionInfo {
    SessionInfo {
        id: Uuid::nil(),
        device: text(),
        address: text(),
        created_at: text(),
        last_seen_at: text(),
        expires_at: text(),
        is_current: false,
    }
}

fn member() -> Member {
    let role = MemberRole::Admin;
    Member { user_id: Uuid::nil(), email: text(), name: text(), role, since: text() }
}

fn invitation() -> Invitation {
    Invitation {
        id: Uuid::nil(),
        email: text(),
        role: text(),
        invited_by: text(),
        created_at: text(),
        expires_at: text(),
    }
}

fn backup() -> Backup {
    Backup {
        id: Uuid::nil(),
        tenant: "acme".parse().unwrap(),
        tenant_id: TenantId::new(Uuid::nil()),
        state: BackupState::Complete,
        due_at: text(),
        requested_by: Some(text()),
        overdue: false,
        taken_at: Some(text()),
        current_at: Some(text()),
        bytes: Some(1),
        sha256: Some(text()),
        object: text(),
        failure: Some(text()),
    }
}

fn mail() -> WaitingMail {
    WaitingMail {
        id: Uuid::nil(),
        kind: text(),
        recipient: text(),
        attempts: 1,
        last_error: Some(text()),
        queued_at: text(),
        next_attempt_at: text(),
        expires_at: text(),
    }
}

fn webhook() -> Webhook {
    Webhook {
        id: Uuid::nil(),
        url: text(),
        created_by: text(),
        created_at: text(),
        secret: Some(text()),
    }
}

fn delivery() -> Delivery {
    Delivery {
        id: Uuid::nil(),
        event: text(),
        state: text(),
        attempts: 1,
        next_attempt_at: Some(text()),
        last_status: Some(500),
        last_error: Some(text()),
        created_at: text(),
        finished_at: Some(text()),
    }
}

fn audit_entry() -> AuditEntry<Value> {
    AuditEntry {
        id: 1,
        at: text(),
        actor: text(),
        actor_kind: text(),
        actor_id: Some(Uuid::nil()),
        role: text(),
        session_id: Some(Uuid::nil()),
        action: text(),
        resource: text(),
        before: Some(json!({})),
        after: Some(json!({})),
        address: text(),
        request_id: text(),
        hash: text(),
    }
}

fn release() -> Release {
    Release {
        app: "shop".parse().unwrap(),
        release: text(),
        image: text(),
        digest: text(),
        repository_digest: Some(text()),
        command: vec![text()],
        port: 1,
        health_path: Some(text()),
        public_paths: Vec::new(),
        database: true,
        chat: Some(text()),
        hooks: Hooks::default(),
        secrets: SecretNames::default(),
        missing_secrets: vec![text()],
        untried_because: Some(text()),
        env: BTreeMap::new(),
        created_at: text(),
    }
}

fn registry() -> Registry {
    Registry {
        host: "registry.example.com".parse().unwrap(),
        username: text(),
        updated_by: text(),
        updated_at: text(),
    }
}

fn rollout() -> Rollout {
    Rollout {
        id: Uuid::nil(),
        app: "shop".parse().unwrap(),
        release: text(),
        state: RolloutState::Done,
        window: Some(text()),
        max_failures: 0,
        max_error_percent: 10,
        watch_seconds: 5,
        tenants: 1,
        moved: 1,
        waves: Vec::new(),
        reason: Some(text()),
        log: Some(text()),
        created_by: text(),
        created_at: text(),
        finished_at: Some(text()),
    }
}

fn package() -> Package {
    Package {
        id: Uuid::nil(),
        name: text(),
        version: text(),
        about: text(),
        bytes: 1,
        sha256: text(),
        signed_by: Some(SignedBy { public_key: text(), key: Some(text()) }),
        workflows: vec![text()],
        created_by: text(),
        created_at: text(),
    }
}

fn package_key() -> PackageKey {
    PackageKey {
        name: text(),
        public_key: text(),
        packages: 1,
        created_by: text(),
        created_at: text(),
    }
}

fn workflow() -> Workflow {
    Workflow {
        name: text(),
        about: text(),
        package: text(),
        inputs: vec![text()],
        tasks: vec![text()],
        paused: true,
    }
}

fn task() -> ExecutionTask {
    ExecutionTask {
        name: text(),
        state: TaskState::Failed,
        attempts: 1,
        reason: Some(text()),
        output: Some(json!({})),
        started_at: Some(text()),
        finished_at: Some(text()),
    }
}

fn execution() -> Execution {
    let summary = ExecutionSummary {
        id: Uuid::nil(),
        workflow: text(),
        package: text(),
        state: ExecutionState::Failed,
        reason: Some(text()),
        created_by: text(),
        created_at: text(),
        started_at: Some(text()),
        finished_at: Some(text()),
    };
    Execution { summary, context: BTreeMap::new(), tasks: vec![task()] }
}

fn trigger() -> Trigger {
    Trigger {
        id: Uuid::nil(),
        name: text(),
        workflow: text(),
        kind: TriggerKind::Cron,
        cron: Some(text()),
        time_zone: Some(text()),
        catch_up: Some(CatchUp::Skip),
        context: Some(BTreeMap::new()),
        paused: true,
        next_fire_at: Some(text()),
        last_fire_at: Some(text()),
        last_execution_id: Some(Uuid::nil()),
        last_failure: Some(text()),
        created_by: text(),
        created_at: text(),
        url: Some(text()),
    }
}

fn model() -> ModelEndpoint {
    ModelEndpoint {
        base_url: text(),
        model: text(),
        has_key: true,
        system_prompt: Some(text()),
        max_tokens: Some(1),
        requests_per_minute: 1,
        tokens_per_day: 1,
        updated_by: text(),
        updated_at: text(),
    }
}

/// Each table with a complete sample of what it shows.
fn tables() -> Vec<(&'static str, &'static Shape, Value)> {
    let created_key = CreatedKey {
        id: Uuid::nil(),
        key: text(),
        name: text(),
        role: Role::Read,
        tenant: "acme".parse().ok(),
        is_admin: false,
        expires_at: Some(text()),
    };
    let created_invitation =
        CreatedInvitation { id: Uuid::nil(), url: text(), expires_at: text(), mailed: true };
    let whoami = WhoAmI {
        kind: PrincipalKind::Key,
        user: Some(user()),
        key: Some(key()),
        tenant: "acme".parse().ok(),
        role: text(),
        is_admin: false,
    };
    let app = App {
        slug: "shop".parse().unwrap(),
        name: text(),
        latest_release: Some(text()),
        created_at: text(),
    };
    let uploaded = UploadedPackage {
        package_id: Uuid::nil(),
        tenant_id: Uuid::nil(),
        name: text(),
        version: text(),
        workflows: vec![text()],
    };
    let scheduled = ScheduledExecution {
        execution_id: Uuid::nil(),
        workflow_name: text(),
        tenant_id: Uuid::nil(),
        status: ExecutionState::Scheduled,
    };
    let used = ModelUsageDay { day: text(), requests: 1, prompt_tokens: 1, completion_tokens: 1 };
    vec![
        ("APPS", &apps::APPS, json!(app)),
        ("AUDIT", &audit::AUDIT, json!(audit_entry())),
        ("BACKUPS", &backups::BACKUPS, json!(backup())),
        ("DATABASES", &tenants::DATABASES, json!(tenant())),
        ("DELIVERIES", &webhooks::DELIVERIES, json!(delivery())),
        ("ENV", &variables::ENV, json!(EnvVariable { name: text(), value: text() })),
        ("EXECUTIONS", &executions::EXECUTIONS, json!(execution())),
        ("INVITATIONS", &people::INVITATIONS, json!(invitation())),
        ("KEYS", &keys::KEYS, json!(key())),
        ("MAILS", &mails::MAILS, json!(mail())),
        ("MEMBERS", &people::MEMBERS, json!(member())),
        ("MODELS", &models::MODELS, json!(model())),
        ("MODEL_USAGE", &models::MODEL_USAGE, json!(used)),
        ("NEW_INVITATION", &people::NEW_INVITATION, json!(created_invitation)),
        ("NEW_KEY", &keys::NEW_KEY, json!(created_key)),
        ("NEW_TRIGGER", &triggers::NEW_TRIGGER, json!(trigger())),
        ("NEW_WEBHOOK", &webhooks::NEW_WEBHOOK, json!(webhook())),
        ("PACKAGES", &packages::PACKAGES, json!(package())),
        ("PACKAGE_KEYS", &packages::PACKAGE_KEYS, json!(package_key())),
        ("REGISTRIES", &registries::REGISTRIES, json!(registry())),
        ("RELEASES", &apps::RELEASES, json!(release())),
        ("ROLLOUTS", &rollouts::ROLLOUTS, json!(rollout())),
        ("SCHEDULED", &executions::SCHEDULED, json!(scheduled)),
        ("SECRETS", &variables::SECRETS, json!(SecretName { name: text() })),
        ("SESSIONS", &people::SESSIONS, json!(session())),
        ("STATES", &tenants::STATES, json!(tenant())),
        ("TASKS", &executions::TASKS, json!(task())),
        ("TENANTS", &tenants::TENANTS, json!(tenant())),
        ("TRIGGERS", &triggers::TRIGGERS, json!(trigger())),
        ("UPLOADED", &packages::UPLOADED, json!(uploaded)),
        ("USERS", &people::USERS, json!(user())),
        ("WEBHOOKS", &webhooks::WEBHOOKS, json!(webhook())),
        ("WORKFLOWS", &executions::WORKFLOWS, json!(workflow())),
        ("WHOAMI", &whoami::WHOAMI, json!(whoami)),
    ]
}

#[test]
fn every_column_is_a_field_that_the_api_sends() {
    for (name, shape, sample) in tables() {
        for pointer in shape.columns.iter().map(|column| column.pointer).chain([shape.name]) {
            let found = sample.pointer(pointer).filter(|value| !value.is_null());
            assert!(found.is_some(), "{name} shows {pointer}, which is not in {sample:#}");
        }
    }
}

/// The names of the tables in this folder.
fn declared() -> BTreeSet<String> {
    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/commands");
    let files = std::fs::read_dir(FOLDER).unwrap().map(|file| file.unwrap().path());
    let texts = files.map(|path| std::fs::read_to_string(path).unwrap());
    let name = |line: &str| {
        let (name, _) = line.split_once("const ")?.1.split_once(": Shape =")?;
        let is_name = name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        is_name.then(|| name.to_owned())
    };
    texts.flat_map(|text| text.lines().filter_map(name).collect::<Vec<_>>()).collect()
}

#[test]
fn no_table_lacks_a_sample() {
    let sampled = tables().into_iter().map(|(name, ..)| name).chain(LOCAL);
    assert_eq!(declared(), sampled.map(str::to_owned).collect::<BTreeSet<_>>());
}
