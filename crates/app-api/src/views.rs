//! Conversions from domain types to the types of the API.

use chrono::SecondsFormat;
use protocol::apps::BUILT_IN_APP;
use protocol::orchestrator::DiskUse;
use protocol::sleep::{LastWake, SleepStatus};
use protocol::{Timestamp, api_keys, control};

use crate::app::App;
use crate::db::api_key::ApiKey;
use crate::db::mail::Waiting;
use crate::db::passkey::Passkey;
use crate::db::user::User;
use crate::sleep_status;
use crate::tenant::Tenant;
use crate::tenant::database::DatabaseExcess;

/// The facts about a tenant beside its row.
#[derive(Default)]
pub struct Observed {
    /// The orchestrator's current status of the tenant, if it is available. It is newer than the row.
    pub sleep: Option<SleepStatus>,
    pub disk: Option<DiskUse>,
    /// The last measured size of the schema.
    pub database_bytes: Option<u64>,
}

pub fn tenant(app: &App, mut tenant: Tenant, observed: Observed) -> control::Tenant {
    let Observed { sleep, disk, database_bytes } = observed;
    sleep_status::update_state(&mut tenant, sleep.as_ref(), app.clock.now());
    let (awake_because, asleep_because, times, last_wake) = match sleep {
        Some(s) => (s.awake_because, s.asleep_because, (s.freezes_at, s.sleeps_at), s.last_wake),
        None => (Vec::new(), None, (None, None), None),
    };
    control::Tenant {
        id: tenant.tenant_id(),
        slug: tenant.slug.clone(),
        name: tenant.name.clone(),
        owner_id: tenant.owner_id,
        url: app.addresses.tenant_url(&tenant.slug),
        app: tenant.app.as_ref().map_or(BUILT_IN_APP, |app| app.slug.as_str()).to_owned(),
        release: tenant.app.as_ref().map(|app| app.release.clone()),
        database: control::TenantDatabase { used_bytes: database_bytes, ..database(app, &tenant) },
        pinned: tenant.is_pinned(),
        desired: tenant.desired,
        state: tenant.state,
        state_since: time(tenant.state_since),
        state_reason: tenant.state_reason.clone(),
        revision: tenant.revision,
        generation: tenant.generation,
        container_id: tenant.container_id.clone(),
        container_port: tenant.port(),
        limits: tenant.limits,
        policy: tenant.policy,
        effective_policy: app.policy.under(&tenant.policy),
        awake_because,
        asleep_because,
        freezes_at: times.0.map(time),
        sleeps_at: times.1.map(time),
        last_wake: last_wake.map(last_wake_view),
        disk: disk.map(|disk| control::TenantDisk {
            used_bytes: disk.used_bytes,
            enforced_by: disk.enforced_by,
        }),
        created_at: time(tenant.created_at),
        updated_at: time(tenant.updated_at),
    }
}

pub fn waiting_mail(row: Waiting) -> protocol::mails::WaitingMail {
    protocol::mails::WaitingMail {
        id: row.id,
        kind: row.kind,
        recipient: row.recipient,
        attempts: row.attempts,
        last_error: row.last_error,
        queued_at: time(row.queued_at),
        next_attempt_at: time(row.next_attempt_at),
        expires_at: time(row.expires_at),
    }
}

pub fn passkey(row: &Passkey) -> protocol::passkey::Passkey {
    protocol::passkey::Passkey {
        id: row.id,
        name: row.name.clone(),
        created_at: time(row.created_at),
        last_used_at: row.last_used_at.map(time),
    }
}

/// The names that the tenant has, or will have once its database is made.
fn database(app: &App, tenant: &Tenant) -> control::TenantDatabase {
    let made = tenant.database.clone();
    let names = made.as_ref().map_or_else(
        || app.role_prefix.names(&tenant.slug),
        |database| database.names(&tenant.slug),
    );
    control::TenantDatabase {
        schema: names.schema,
        user: names.user,
        version: made.as_ref().map(|database| database.version.clone()),
        closed_because: made
            .as_ref()
            .and_then(|database| database.excess)
            .map(DatabaseExcess::describe),
        failure: made.and_then(|database| database.failure),
        used_bytes: None,
    }
}

fn last_wake_view(wake: LastWake) -> control::LastWake {
    let LastWake { at, from, total_ms, phases_ms } = wake;
    control::LastWake { at: time(at), from, total_ms, phases_ms }
}

pub fn user(user: &User) -> control::User {
    control::User {
        id: user.id,
        email: user.email.clone(),
        name: user.name.clone(),
        role: user.role.clone(),
    }
}

pub fn api_key(key: &ApiKey) -> api_keys::Key {
    api_keys::Key {
        id: key.id,
        name: key.name.clone(),
        role: key.role,
        tenant: key.tenant.as_ref().map(|tenant| tenant.slug.clone()),
        person: key.person.as_ref().map(|person| person.email.clone()),
        is_admin: key.is_admin,
        created_at: time(key.created_at),
        expires_at: key.expires_at.map(time),
        last_used_at: key.last_used_at.map(time),
        revoked: key.revoked,
    }
}

/// RFC 3339, UTC, milliseconds.
pub fn time(at: Timestamp) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
