//! `audit_log`: append-only, with the hash chain's head in `audit_head`.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use protocol::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::schema::audit_head::dsl as head;
use super::schema::audit_log::{self, dsl};
use super::{Conn, webhook};
use crate::audit::Entry;
use crate::audit::chain::{GENESIS, Hash, link};
use crate::audit::query::AuditFilter;

/// An entry as it is stored.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = audit_log, check_for_backend(diesel::pg::Pg))]
pub struct AuditRow {
    pub id: i64,
    pub at: Timestamp,
    pub actor_kind: String,
    pub actor_id: Option<Uuid>,
    pub actor: String,
    pub role: String,
    pub session_id: Option<Uuid>,
    pub action: String,
    pub resource_kind: String,
    pub resource: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
    pub address: String,
    pub request_id: String,
    pub hash: Vec<u8>,
}

impl AuditRow {
    /// The record that the hash covers: the entry on the wire without its hash.
    pub fn record(&self) -> Value {
        json!({
            "id": self.id,
            "at": self.at(),
            "actor": self.actor,
            "actor_kind": self.actor_kind,
            "actor_id": self.actor_id,
            "role": self.role,
            "session_id": self.session_id,
            "action": self.action,
            "resource": self.resource(),
            "before": self.before,
            "after": self.after,
            "address": self.address,
            "request_id": self.request_id,
        })
    }

    /// RFC 3339 with microseconds, the precision of the column.
    pub fn at(&self) -> String {
        self.at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
    }

    pub fn resource(&self) -> String {
        format!("{}:{}", self.resource_kind, self.resource)
    }
}

/// The last id and its hash.
pub async fn head(conn: &mut Conn) -> QueryResult<(i64, Vec<u8>)> {
    head::audit_head.select((head::id, head::hash)).first(conn).await
}

/// Writes an entry and, for an event, the deliveries to webhooks. Belongs at the end of the transaction that makes the change: other writers wait for this lock until
/// the transaction ends, so that ids follow the order of commits.
pub async fn append(conn: &mut Conn, entry: &Entry, now: Timestamp) -> QueryResult<i64> {
    let locked = head::audit_head.select((head::id, head::hash)).for_update();
    let (last, previous): (i64, Vec<u8>) = locked.first(conn).await?;
    let previous: Hash = previous.try_into().unwrap_or(GENESIS);
    let mut row = AuditRow {
        id: last + 1,
        at: now,
        actor_kind: entry.actor.kind.to_owned(),
        actor_id: entry.actor.id,
        actor: entry.actor.name.clone(),
        role: entry.actor.role.clone(),
        session_id: entry.actor.session_id,
        action: entry.action.as_str().to_owned(),
        resource_kind: entry.resource.kind.to_owned(),
        resource: entry.resource.name.clone(),
        before: entry.before.clone(),
        after: entry.after.clone(),
        address: entry.origin.address.clone(),
        request_id: entry.origin.request_id.clone(),
        hash: Vec::new(),
    };
    let record = row.record();
    row.hash = link(&previous, &record).to_vec();
    diesel::insert_into(dsl::audit_log).values(&row).execute(conn).await?;
    diesel::update(head::audit_head)
        .set((head::id.eq(row.id), head::hash.eq(&row.hash)))
        .execute(conn)
        .await?;
    if let Some(event) = entry.action.event() {
        webhook::enqueue(conn, event, &record, now).await?;
    }
    Ok(row.id)
}

/// Writes entries in this order, like [`append`].
pub async fn append_all(conn: &mut Conn, entries: &[Entry], now: Timestamp) -> QueryResult<()> {
    for entry in entries {
        append(conn, entry, now).await?;
    }
    Ok(())
}

/// The order in which entries are read, from the end that the filter leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Only entries with an id below this one, the latest first.
    LatestBefore(i64),
    /// Only entries with an id above the first number and not above the second, the oldest first.
    OldestBetween(i64, i64),
}

pub async fn list(
    conn: &mut Conn,
    filter: &AuditFilter,
    order: Order,
    limit: i64,
) -> QueryResult<Vec<AuditRow>> {
    let mut query = dsl::audit_log.select(AuditRow::as_select()).limit(limit).into_boxed();
    if let Some(actor) = &filter.actor {
        query = match actor.parse::<Uuid>() {
            Ok(id) => query.filter(dsl::actor_id.eq(id)),
            Err(_) => query.filter(dsl::actor.eq(actor.clone())),
        };
    }
    if let Some(action) = &filter.action {
        query = query.filter(dsl::action.eq(action.clone()));
    }
    if let Some((kind, name)) = &filter.resource {
        query = query.filter(dsl::resource_kind.eq(kind.clone()));
        if let Some(name) = name {
            query = query.filter(dsl::resource.eq(name.clone()));
        }
    }
    if let Some(since) = filter.since {
        query = query.filter(dsl::at.ge(since));
    }
    if let Some(until) = filter.until {
        query = query.filter(dsl::at.lt(until));
    }
    query = match order {
        Order::LatestBefore(id) => query.filter(dsl::id.lt(id)).order(dsl::id.desc()),
        Order::OldestBetween(after, last) => {
            query.filter(dsl::id.gt(after)).filter(dsl::id.le(last)).order(dsl::id.asc())
        }
    };
    query.load(conn).await
}
