//! Bounds the sizes of tenants' schemas, which Postgres does not.
//!
//! A schema above its limit is closed: its role cannot log in, and its sessions are ended. The role cannot undo that, and a
//! superuser, or Cial, can. Each round compares what is recorded with what the server has, so that a process may die at any step.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use protocol::{TenantId, Timestamp};
use serde_json::json;
use service::keys;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::{TenantDatabases, entry};
use crate::app::App;
use crate::audit::Action;
use crate::clock::Clock;
use crate::db::database_size::{self, MeasuredSchema};
use crate::db::{Conn, QueryError, Transaction as _, audit_log, tenant, tenant_database};
use crate::tenant::Tenant;
use crate::tenant::database::{DatabaseExcess, ProvisionedDatabase, SizeStep, next_size_step};

/// Tenants with a session are measured at this interval, and so are those that are closed.
pub const SIZE_CHECK_INTERVAL: Duration = Duration::from_secs(15);
/// One in this many rounds measures all tenants: a tenant may have written between two rounds.
const ROUNDS_OF_ALL: u32 = 20;
/// A tenant that could not be measured in this many rounds loses its sessions, with their locks, and cannot log in until it is measured.
const MAX_UNMEASURED: u32 = 20;
/// Schemas that one statement measures.
const BATCH: usize = 100;

/// The memory from round to round.
#[derive(Default)]
struct SizeWatch {
    /// Those that succeeded.
    rounds: u32,
    /// The number of rounds in a row in which a tenant could not be measured.
    unmeasured: HashMap<Uuid, u32>,
    /// The roles that the next round checks also without a session: the last one left them unfinished, perhaps without the right
    /// to log in.
    unfinished: HashSet<String>,
}

/// Whether a round is done with a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checked {
    Done,
    /// The next round checks the tenant again.
    Unfinished,
}

impl TenantDatabases {
    /// Measures schemas, closes those above their limits, and opens those that are below again. Never returns.
    pub async fn watch_sizes(&self, interval: Duration, clock: &Clock) {
        let mut interval = tokio::time::interval(interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = SizeWatch::default();
        loop {
            interval.tick().await;
            // The next round follows, over all tenants if this one was; while the server is down nobody writes.
            if let Err(error) = self.check_sizes(&mut watch, clock.now()).await {
                tracing::warn!(error = format!("{error:#}"), "measuring databases failed");
            }
        }
    }

    async fn check_sizes(&self, watch: &mut SizeWatch, now: Timestamp) -> anyhow::Result<()> {
        let _slot = self.connections.acquire().await?;
        let mut conn = self.database.connect_provisioner().await?;
        database_size::bound_waits(&mut conn).await?;
        let busy = database_size::busy_roles(&mut conn).await?;
        let is_of_all = watch.rounds.is_multiple_of(ROUNDS_OF_ALL);
        let mut roles = busy.clone();
        roles.extend(watch.unfinished.iter().cloned());
        let roles = (!is_of_all).then_some(roles.as_slice());
        let tenants = tenant::with_database(&mut *self.database.conn().await?, roles).await?;
        let busy: HashSet<_> = busy.into_iter().collect();
        for tenants in tenants.chunks(BATCH) {
            let measured = measure(&mut conn, tenants).await;
            let known = measured.values().filter(|measured| !measured.is_locked);
            let ids: HashMap<_, _> =
                tenants.iter().map(|tenant| (self.names(tenant).schema, tenant.id)).collect();
            let sizes: Vec<_> = known
                .filter_map(|measured| Some((*ids.get(&measured.schema)?, measured.bytes)))
                .collect();
            database_size::store(&mut *self.database.conn().await?, &sizes, now).await?;
            for tenant in tenants {
                let Some(measured) = measured.get(&self.names(tenant).schema) else { continue };
                // One tenant holds up no other.
                let checked = self.check_size(&mut conn, tenant, measured, watch, &busy, now).await;
                let checked = checked.unwrap_or_else(|error| {
                    let error = format!("{error:#}");
                    tracing::warn!(tenant = %tenant.id, slug = %tenant.slug, error, "bounding a database failed");
                    Checked::Unfinished
                });
                let user = self.names(tenant).user;
                match checked {
                    Checked::Done => watch.unfinished.remove(&user),
                    Checked::Unfinished => watch.unfinished.insert(user),
                };
            }
        }
        watch.rounds = watch.rounds.wrapping_add(1);
        Ok(())
    }

    async fn check_size(
        &self,
        conn: &mut Conn,
        tenant: &Tenant,
        measured: &MeasuredSchema,
        watch: &mut SizeWatch,
        busy: &HashSet<String>,
        now: Timestamp,
    ) -> anyhow::Result<Checked> {
        let Some(database) = &tenant.database else { return Ok(Checked::Done) };
        let mut measured = measured.clone();
        if measured.is_locked {
            let rounds = watch.unmeasured.entry(tenant.id).or_default();
            *rounds += 1;
            if *rounds < MAX_UNMEASURED {
                return Ok(Checked::Done);
            }
            // A client that connects again at once must not lock anew. While sessions go on, the role stays without its right.
            tracing::warn!(tenant = %tenant.id, slug = %tenant.slug, "sessions ended: the database cannot be measured beside them");
            tenant_database::end_connections(conn, &database.user).await?;
            match database_size::measure(conn, &[self.names(tenant)]).await {
                Ok(alone) => match alone.into_iter().find(|alone| !alone.is_locked) {
                    Some(alone) => measured = alone,
                    // A session began at this moment.
                    None => return Ok(Checked::Unfinished),
                },
                Err(error) => {
                    // Nothing is known of the schema, so its role may go on.
                    if database.excess.is_none() {
                        self.allow_login(conn, tenant, database).await?;
                    }
                    watch.unmeasured.remove(&tenant.id);
                    return Err(error.into());
                }
            }
        }
        watch.unmeasured.remove(&tenant.id);
        let used = u64::try_from(measured.bytes).unwrap_or_default();
        let step = next_size_step(database.excess, used, tenant.limits.database_bytes);
        let excess = match step {
            SizeStep::Stay => database.excess,
            SizeStep::Close(excess) => Some(excess),
            SizeStep::Open => None,
        };
        if excess != database.excess && !self.record_excess(tenant, database, excess, now).await? {
            // Another process changed the row.
            return Ok(Checked::Unfinished);
        }
        let is_busy = busy.contains(&database.user);
        if excess.is_some() && (measured.can_login || is_busy) {
            tenant_database::end_connections(conn, &database.user).await?;
        } else if excess.is_none() && !measured.can_login {
            self.allow_login(conn, tenant, database).await?;
        }
        Ok(Checked::Done)
    }

    /// Lets the role of a schema that is open log in.
    async fn allow_login(
        &self,
        conn: &mut Conn,
        tenant: &Tenant,
        database: &ProvisionedDatabase,
    ) -> anyhow::Result<()> {
        let id = tenant.tenant_id();
        let password = keys::tenant_database_password(&self.master, id);
        let names = database.names(&tenant.slug);
        tenant_database::restore_role(conn, id, &names, &password).await
    }

    /// Records that a schema is closed, by which limit, or open again. `false`: another process changed the row first.
    async fn record_excess(
        &self,
        tenant: &Tenant,
        database: &ProvisionedDatabase,
        excess: Option<DatabaseExcess>,
        now: Timestamp,
    ) -> anyhow::Result<bool> {
        let id: TenantId = tenant.tenant_id();
        let next = ProvisionedDatabase { excess, ..database.clone() };
        let sizes = |excess: DatabaseExcess| json!({ "used_bytes": excess.used_bytes, "limit_bytes": excess.limit_bytes });
        let entry = match (database.excess, excess) {
            (None, Some(excess)) => {
                Some(entry(Action::TenantDatabaseClose, tenant).after(sizes(excess)))
            }
            (Some(excess), None) => {
                Some(entry(Action::TenantDatabaseOpen, tenant).before(sizes(excess)))
            }
            // Only the limit changed, and that has an entry of its own.
            (Some(_), Some(_)) => None,
            (None, None) => return Ok(true),
        };
        let mut conn = self.database.conn().await?;
        let recorded = conn
            .transaction(async |conn| {
                if tenant_database::record(conn, id, database, &next).await? == 0 {
                    return Ok(false);
                }
                if let Some(entry) = &entry {
                    audit_log::append(conn, entry, now).await?;
                }
                Ok::<_, QueryError>(true)
            })
            .await?;
        if recorded {
            let reason = excess.map(DatabaseExcess::describe);
            tracing::info!(tenant = %id, slug = %tenant.slug, reason, is_closed = excess.is_some(), "access to a database changed");
        }
        Ok(recorded)
    }
}

/// The measurements by schema. When a statement fails, each schema is measured by itself: one tenant holds up no other.
async fn measure(conn: &mut Conn, tenants: &[Tenant]) -> HashMap<String, MeasuredSchema> {
    let names = |tenant: &Tenant| Some(tenant.database.as_ref()?.names(&tenant.slug));
    let names: Vec<_> = tenants.iter().filter_map(names).collect();
    let mut measured = HashMap::new();
    match database_size::measure(conn, &names).await {
        Ok(rows) => measured.extend(rows.into_iter().map(|row| (row.schema.clone(), row))),
        Err(_) => {
            for one in &names {
                let row = database_size::measure(conn, std::slice::from_ref(one)).await;
                if let Err(error) = &row {
                    tracing::warn!(schema = one.schema, %error, "measuring a database failed");
                }
                let row = row.ok().and_then(|rows| rows.into_iter().next());
                let locked = MeasuredSchema {
                    schema: one.schema.clone(),
                    bytes: 0,
                    is_locked: true,
                    can_login: true,
                };
                measured.insert(one.schema.clone(), row.unwrap_or(locked));
            }
        }
    }
    measured
}

/// The last measured sizes of these tenants' schemas, in bytes. Without the database there are none.
pub async fn last_sizes(app: &App, tenants: &[Tenant]) -> HashMap<Uuid, u64> {
    let ids: Vec<_> = tenants.iter().map(|tenant| tenant.id).collect();
    let read = async {
        let mut conn = app.database.conn().await?;
        anyhow::Ok(database_size::of(&mut conn, &ids).await?)
    };
    read.await.unwrap_or_else(|error| {
        tracing::debug!(error = format!("{error:#}"), "reading sizes of databases failed");
        HashMap::new()
    })
}
