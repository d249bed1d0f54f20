//! A tenant as the control plane knows it. Pure: no SQL, no HTTP, no clock.
//!
//! `db`, `reconcile`, the API and the pages all build on this module; it depends on none of them.

pub mod change;
pub mod crashes;
pub mod database;
pub mod status;

use std::collections::BTreeMap;

use protocol::orchestrator::Upstream;
use protocol::process::AppSpec;
use protocol::spec::{Desired, Limits, Policy, Spec};
use protocol::variables::SealedAppEnv;
use protocol::{Slug, State, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use change::Changeable;
use crashes::Crashes;
use database::ProvisionedDatabase;
use status::{DesiredState, OwnerAction, TenantStatus};

/// One tenant: the owner's wishes and the last known state.
#[derive(Clone, Debug)]
pub struct Tenant {
    pub id: Uuid,
    pub slug: Slug,
    pub name: String,
    /// The person who created the tenant; `None` when a key did.
    pub owner_id: Option<Uuid>,
    pub desired: Desired,
    pub state: State,
    pub state_since: Timestamp,
    pub state_reason: Option<String>,
    /// Grows with each change of the desired state.
    pub revision: i64,
    /// Grows with each change of the row; guards every write.
    pub moves: i64,
    /// Grows when the container must be recreated.
    pub generation: i64,
    pub image: Option<String>,
    pub env: BTreeMap<String, String>,
    pub limits: Limits,
    pub policy: Policy,
    pub container_id: Option<String>,
    pub container_port: Option<i32>,
    pub upstream: Option<Upstream>,
    pub restarts_asked: i64,
    pub restarts_done: i64,
    pub changes_asked: i64,
    pub changes_done: i64,
    pub wakes_asked: i64,
    pub wakes_done: i64,
    pub crashes: Crashes,
    /// No start is attempted until the owner requests one.
    pub gave_up: bool,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// The time of the owner's last request.
    pub requested_at: Timestamp,
    /// `None` is the built-in app.
    pub app: Option<TenantApp>,
    /// `None` while the tenant has no schema and no role on the database server.
    pub database: Option<ProvisionedDatabase>,
}

/// The app of a tenant at one release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantApp {
    pub slug: Slug,
    /// Like `v2`.
    pub release: String,
    pub spec: AppSpec,
    /// Rollouts leave the tenant alone.
    #[serde(default)]
    pub pinned: bool,
    /// The tenant's own variables and secrets of the program, encrypted.
    #[serde(default)]
    pub sealed_env: Option<String>,
    /// The variables and secrets of the app, encrypted: a copy of those in the app's row.
    #[serde(default)]
    pub app_env: Option<SealedAppEnv>,
    /// When the tenant's own variables changed, unless the tenant has been ready with them since.
    #[serde(default)]
    pub untried_since: Option<Timestamp>,
}

impl TenantApp {
    /// Whether both are the same release of the same app.
    pub fn is_same_release(&self, other: &Self) -> bool {
        (&self.slug, &self.release) == (&other.slug, &other.release)
    }

    /// Like `notes/v2`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.slug, self.release)
    }
}

impl Tenant {
    pub fn is_pinned(&self) -> bool {
        self.app.as_ref().is_some_and(|app| app.pinned)
    }

    /// Whether the tenant's variables changed since it was last ready.
    pub fn has_untried_variables(&self) -> bool {
        self.app.as_ref().is_some_and(|app| app.untried_since.is_some())
    }

    /// The app, once `next` shows that a start with the tenant's latest variables got ready.
    pub fn with_tried_variables(&self, next: &TenantStatus) -> Option<TenantApp> {
        let app = self.app.as_ref()?;
        let was_up = matches!(self.state, State::Running | State::Frozen);
        let is_tried = !was_up
            && next.state == State::Running
            && app.untried_since.is_some_and(|changed| changed <= self.state_since);
        is_tried.then(|| TenantApp { untried_since: None, ..app.clone() })
    }

    pub fn tenant_id(&self) -> TenantId {
        TenantId::new(self.id)
    }

    pub fn desired_state(&self) -> DesiredState {
        DesiredState {
            desired: self.desired,
            generation: self.generation,
            restart: self.restarts_done < self.restarts_asked,
            change: self.changes_done < self.changes_asked,
            wake: self.wakes_done < self.wakes_asked,
            has_database: self.database.is_some(),
        }
    }

    pub fn status(&self) -> TenantStatus {
        TenantStatus {
            state: self.state,
            since: self.state_since,
            reason: self.state_reason.clone(),
            container_id: self.container_id.clone(),
            container_port: self.port(),
            upstream: self.upstream.clone(),
            crashes: self.crashes.clone(),
            gave_up: self.gave_up,
        }
    }

    /// The status after a move to another release. The container is replaced at once, unless nothing runs. A release that
    /// cannot run is often the reason for the move: the tenant is tried again.
    pub fn status_on_other_release(&self, now: Timestamp) -> TenantStatus {
        let is_replaced = self.desired == Desired::Running
            && (self.gave_up || matches!(self.state, State::Running | State::Frozen));
        let status = self.status();
        if is_replaced { status.after_action(OwnerAction::Restart, now) } else { status }
    }

    /// The status after a change of the tenant's own variables. A tenant in error is tried again: a variable is often the
    /// reason.
    pub fn status_with_other_variables(&self, now: Timestamp) -> TenantStatus {
        let is_tried = self.desired == Desired::Running && self.state == State::Error;
        let status = self.status();
        if is_tried { status.after_action(OwnerAction::Start, now) } else { status }
    }

    pub fn changeable(&self) -> Changeable {
        Changeable {
            name: self.name.clone(),
            limits: self.limits,
            policy: self.policy,
            pinned: self.is_pinned(),
        }
    }

    pub fn port(&self) -> Option<u16> {
        self.container_port.and_then(|port| u16::try_from(port).ok())
    }

    pub fn spec(&self) -> Spec {
        self.spec_for(self.database.as_ref().map(|database| database.user.clone()))
    }

    /// The spec as it is once the tenant's database is there, with the role `user`.
    pub fn spec_with_database(&self, user: String) -> Spec {
        self.spec_for(Some(user))
    }

    /// `database_user` counts if the tenant's app wants a database.
    fn spec_for(&self, database_user: Option<String>) -> Spec {
        let wants_database = self.app.as_ref().is_some_and(|app| app.spec.database);
        Spec {
            id: self.tenant_id(),
            slug: self.slug.clone(),
            generation: self.generation,
            image: self.image.clone(),
            env: self.env.clone(),
            sealed_env: self.app.as_ref().and_then(|app| app.sealed_env.clone()),
            app_env: self.app.as_ref().and_then(|app| app.app_env.clone()),
            database_user: database_user.filter(|_| wants_database),
            app: self.app.as_ref().map(|app| app.spec.clone()),
            limits: self.limits,
            policy: self.policy,
        }
    }

    /// Since when the tenant is in the state that its owner reads: a tenant that is stopping or waking has been so
    /// since the request, although the observed state is older.
    pub fn shown_since(&self) -> Timestamp {
        let is_stopping = self.desired == Desired::Stopped && self.state != State::Stopped;
        let is_waking =
            self.desired_state().wake && matches!(self.state, State::Frozen | State::Sleeping);
        if is_stopping || is_waking {
            self.state_since.max(self.requested_at)
        } else {
            self.state_since
        }
    }

    /// Whether the container serves requests or would do so after a wake.
    pub fn is_up(&self) -> bool {
        let is_up = matches!(self.state, State::Running | State::Frozen | State::Sleeping);
        is_up && self.desired == Desired::Running
    }
}
