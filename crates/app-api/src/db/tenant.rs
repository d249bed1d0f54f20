//! `tenants`: what is wanted of each, and what we say about it. Moves are guarded by their number.

use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use protocol::orchestrator::Upstream;
use protocol::spec::{Desired, Limits, Policy, Spec};
use protocol::{Slug, State, TenantId, Timestamp};
use uuid::Uuid;

use super::Conn;
use super::schema::tenants::{self, dsl};
use super::word::{Record, Word};
use crate::reconcile::crashes::Crashes;
use crate::reconcile::plan::{Life, Met, Want};
use crate::tenants::change::Changeable;

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = tenants)]
pub struct Tenant {
    pub id: Uuid,
    #[diesel(deserialize_as = Word<Slug>)]
    pub slug: Slug,
    pub name: String,
    pub owner_id: Uuid,
    #[diesel(deserialize_as = Word<Desired>)]
    pub desired: Desired,
    #[diesel(deserialize_as = Word<State>)]
    pub state: State,
    pub state_since: Timestamp,
    pub state_reason: Option<String>,
    /// Of what its owner wants: grows with each change of that.
    pub revision: i64,
    /// Grows with every change of the row.
    pub moves: i64,
    pub generation: i64,
    pub image: Option<String>,
    #[diesel(deserialize_as = Record<BTreeMap<String, String>>)]
    pub env: BTreeMap<String, String>,
    #[diesel(deserialize_as = Record<Limits>)]
    pub limits: Limits,
    #[diesel(deserialize_as = Record<Policy>)]
    pub policy: Policy,
    pub container_id: Option<String>,
    pub container_port: Option<i32>,
    #[diesel(deserialize_as = Record<Option<Upstream>>)]
    pub upstream: Option<Upstream>,
    pub restarts_asked: i64,
    pub restarts_done: i64,
    pub changes_asked: i64,
    pub changes_done: i64,
    pub wakes_asked: i64,
    pub wakes_done: i64,
    #[diesel(deserialize_as = Record<Crashes>)]
    pub crashes: Crashes,
    pub gave_up: bool,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Tenant {
    pub fn tenant_id(&self) -> TenantId {
        TenantId::new(self.id)
    }

    pub fn want(&self) -> Want {
        Want {
            desired: self.desired,
            generation: self.generation,
            restart: self.restarts_done < self.restarts_asked,
            change: self.changes_done < self.changes_asked,
            wake: self.wakes_done < self.wakes_asked,
        }
    }

    pub fn life(&self) -> Life {
        Life {
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

    pub fn changeable(&self) -> Changeable {
        Changeable { name: self.name.clone(), limits: self.limits, policy: self.policy }
    }

    pub fn port(&self) -> Option<u16> {
        self.container_port.and_then(|port| u16::try_from(port).ok())
    }

    pub fn spec(&self) -> Spec {
        Spec {
            id: self.tenant_id(),
            slug: self.slug.clone(),
            generation: self.generation,
            image: self.image.clone(),
            env: self.env.clone(),
            limits: self.limits,
            policy: self.policy,
        }
    }
}

/// The columns of a [`Life`].
#[derive(AsChangeset)]
#[diesel(table_name = tenants, treat_none_as_null = true)]
struct LifeColumns {
    state: &'static str,
    state_since: Timestamp,
    state_reason: Option<String>,
    container_id: Option<String>,
    container_port: Option<i32>,
    upstream: serde_json::Value,
    crashes: serde_json::Value,
    gave_up: bool,
}

impl From<&Life> for LifeColumns {
    fn from(life: &Life) -> Self {
        Self {
            state: life.state.as_str(),
            state_since: life.since,
            state_reason: life.reason.clone(),
            container_id: life.container_id.clone(),
            container_port: life.container_port.map(i32::from),
            upstream: json(&life.upstream),
            crashes: json(&life.crashes),
            gave_up: life.gave_up,
        }
    }
}

fn json<T: serde::Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

pub struct NewTenant<'a> {
    pub id: Uuid,
    pub slug: &'a Slug,
    pub name: &'a str,
    pub owner_id: Uuid,
    pub now: Timestamp,
}

/// `None` when the slug is taken.
pub async fn insert(conn: &mut Conn, new: &NewTenant<'_>) -> QueryResult<Option<Tenant>> {
    let row = (
        dsl::id.eq(new.id),
        dsl::slug.eq(new.slug.as_str()),
        dsl::name.eq(new.name),
        dsl::owner_id.eq(new.owner_id),
        dsl::limits.eq(json(&Limits::default())),
        dsl::policy.eq(json(&Policy::default())),
        dsl::state_since.eq(new.now),
        dsl::created_at.eq(new.now),
        dsl::updated_at.eq(new.now),
    );
    diesel::insert_into(dsl::tenants)
        .values(row)
        .on_conflict(dsl::slug)
        .do_nothing()
        .returning(Tenant::as_returning())
        .get_result(conn)
        .await
        .optional()
}

pub async fn by_id(conn: &mut Conn, id: TenantId) -> QueryResult<Option<Tenant>> {
    dsl::tenants.find(id.uuid()).select(Tenant::as_select()).first(conn).await.optional()
}

pub async fn by_slug(conn: &mut Conn, owner: Uuid, slug: &str) -> QueryResult<Option<Tenant>> {
    let query = dsl::tenants.filter(dsl::slug.eq(slug).and(dsl::owner_id.eq(owner)));
    query.select(Tenant::as_select()).first(conn).await.optional()
}

pub async fn all(conn: &mut Conn) -> QueryResult<Vec<Tenant>> {
    dsl::tenants.select(Tenant::as_select()).load(conn).await
}

/// What a list may be narrowed by.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub state: Option<State>,
    pub text: Option<String>,
    /// Slugs behind this one.
    pub after: Option<String>,
    pub limit: i64,
}

pub async fn list(conn: &mut Conn, owner: Uuid, filter: &Filter) -> QueryResult<Vec<Tenant>> {
    let mut query = dsl::tenants.filter(dsl::owner_id.eq(owner)).into_boxed();
    if let Some(state) = filter.state {
        query = query.filter(dsl::state.eq(state.as_str()));
    }
    if let Some(text) = &filter.text {
        let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        let like = format!("%{escaped}%");
        query = query.filter(dsl::slug.ilike(like.clone()).or(dsl::name.ilike(like)));
    }
    if let Some(after) = &filter.after {
        query = query.filter(dsl::slug.gt(after.clone()));
    }
    query.order(dsl::slug).limit(filter.limit).select(Tenant::as_select()).load(conn).await
}

/// Writes what we say of a tenant; `false` when someone else moved it first.
pub async fn advance(conn: &mut Conn, seen: &Tenant, life: &Life) -> QueryResult<bool> {
    let unmoved = dsl::tenants.find(seen.id).filter(dsl::moves.eq(seen.moves));
    Ok(diesel::update(unmoved).set(LifeColumns::from(life)).execute(conn).await? == 1)
}

/// What an owner's request adds to what was asked before.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    pub desired: Desired,
    pub restart: bool,
    pub wake: bool,
}

/// Writes what its owner wants; `None` when someone else moved it first.
pub async fn ask(
    conn: &mut Conn,
    seen: &Tenant,
    wish: Wish,
    life: &Life,
) -> QueryResult<Option<Tenant>> {
    let unmoved = dsl::tenants.find(seen.id).filter(dsl::moves.eq(seen.moves));
    let wish = (
        dsl::desired.eq(wish.desired.as_str()),
        dsl::restarts_asked.eq(seen.restarts_asked + i64::from(wish.restart)),
        dsl::wakes_asked.eq(seen.wakes_asked + i64::from(wish.wake)),
        LifeColumns::from(life),
    );
    let asked = diesel::update(unmoved).set(wish).returning(Tenant::as_returning());
    asked.get_result(conn).await.optional()
}

/// Writes what is changed in place; `None` when someone else moved it first.
pub async fn change(
    conn: &mut Conn,
    seen: &Tenant,
    next: &Changeable,
) -> QueryResult<Option<Tenant>> {
    let unmoved = dsl::tenants.find(seen.id).filter(dsl::moves.eq(seen.moves));
    let columns = (
        dsl::name.eq(&next.name),
        dsl::limits.eq(json(&next.limits)),
        dsl::policy.eq(json(&next.policy)),
        dsl::changes_asked.eq(dsl::changes_asked + 1),
    );
    let changed = diesel::update(unmoved).set(columns).returning(Tenant::as_returning());
    changed.get_result(conn).await.optional()
}

/// What was asked for up to `seen` is done, as far as `met` says.
pub async fn handed_over(conn: &mut Conn, seen: &Tenant, met: Met) -> QueryResult<usize> {
    let upto = |met, asked, done| if met { asked } else { done };
    let restarts = upto(met.restart, seen.restarts_asked, seen.restarts_done);
    let changes = upto(met.change, seen.changes_asked, seen.changes_done);
    let wakes = upto(met.wake, seen.wakes_asked, seen.wakes_done);
    let behind = dsl::restarts_done
        .lt(restarts)
        .or(dsl::changes_done.lt(changes))
        .or(dsl::wakes_done.lt(wakes));
    diesel::update(dsl::tenants.find(seen.id).filter(behind))
        .set((
            dsl::restarts_done.eq(restarts),
            dsl::changes_done.eq(changes),
            dsl::wakes_done.eq(wakes),
        ))
        .execute(conn)
        .await
}

/// Lets a tenant go of which nothing else is left. Its slug is free again.
pub async fn bury(conn: &mut Conn, id: TenantId) -> QueryResult<usize> {
    let deleted = dsl::tenants.find(id.uuid()).filter(dsl::desired.eq(Desired::Deleted.as_str()));
    diesel::delete(deleted).execute(conn).await
}
