//! Workspaces and their registrations.

use protocol::history::{Page, Peer, Registration, Relation, Workspace};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use uuid::Uuid;

use super::Millis;
use super::page::{PageRequest, Position};
use crate::rfc3339;

/// Makes a workspace. `None` when there is no such parent.
///
/// # Errors
/// When the database fails.
pub fn create(
    connection: &Connection,
    name: &str,
    parent_id: Option<Uuid>,
    now: Millis,
) -> rusqlite::Result<Option<Workspace>> {
    if let Some(parent_id) = parent_id
        && !exists(connection, parent_id)?
    {
        return Ok(None);
    }
    let id = Uuid::new_v4();
    connection.execute(
        "INSERT INTO workspaces (id, name, parent_id, created_at) VALUES (?, ?, ?, ?)",
        params![id, name, parent_id, now],
    )?;
    Ok(Some(Workspace { id, name: name.to_owned(), parent_id, created_at: rfc3339(now) }))
}

/// # Errors
/// When the database fails.
pub fn exists(connection: &Connection, id: Uuid) -> rusqlite::Result<bool> {
    connection
        .query_one("SELECT EXISTS (SELECT 1 FROM workspaces WHERE id = ?)", [id], |row| row.get(0))
}

/// # Errors
/// When the database fails.
pub fn list(connection: &Connection, request: &PageRequest) -> rusqlite::Result<Page<Workspace>> {
    let mut query = connection.prepare(
        "SELECT created_at, seq, id, name, parent_id FROM workspaces
         WHERE (created_at, seq) < (?, ?) ORDER BY created_at DESC, seq DESC LIMIT ?",
    )?;
    let Position { created_at, number } = request.before;
    let rows = query.query_map(params![created_at, number, request.row_count()], |row| {
        let position = Position { created_at: row.get(0)?, number: row.get(1)? };
        let workspace = Workspace {
            id: row.get(2)?,
            name: row.get(3)?,
            parent_id: row.get(4)?,
            created_at: rfc3339(position.created_at),
        };
        Ok((position, workspace))
    })?;
    Ok(request.page(rows.collect::<Result<_, _>>()?))
}

/// Registers a workspace, or registers it again. `None` when there is no such workspace.
///
/// # Errors
/// When the database fails.
pub fn register(
    connection: &Connection,
    id: Uuid,
    role: Option<&str>,
    now: Millis,
) -> rusqlite::Result<Option<Registration>> {
    connection.execute(
        "UPDATE workspaces SET role = ?, registered_at = coalesce(registered_at, ?), last_seen_at = ?
         WHERE id = ?",
        params![role, now, now, id],
    )?;
    registration(connection, id)
}

/// Records that a registered workspace is alive. `false` when it is not registered.
///
/// # Errors
/// When the database fails.
pub fn record_heartbeat(connection: &Connection, id: Uuid, now: Millis) -> rusqlite::Result<bool> {
    let changed = connection.execute(
        "UPDATE workspaces SET last_seen_at = ? WHERE id = ? AND registered_at IS NOT NULL",
        params![now, id],
    )?;
    Ok(changed > 0)
}

const REGISTRATION: &str = "id, name, role, parent_id, registered_at, last_seen_at";

fn read_registration(row: &Row<'_>) -> rusqlite::Result<Registration> {
    Ok(Registration {
        workspace_id: row.get(0)?,
        name: row.get(1)?,
        role: row.get(2)?,
        parent_id: row.get(3)?,
        registered_at: rfc3339(row.get(4)?),
        last_seen_at: rfc3339(row.get(5)?),
    })
}

/// `None` when the workspace is not registered.
///
/// # Errors
/// When the database fails.
pub fn registration(connection: &Connection, id: Uuid) -> rusqlite::Result<Option<Registration>> {
    let query =
        format!("SELECT {REGISTRATION} FROM workspaces WHERE id = ? AND registered_at IS NOT NULL");
    connection.query_row(&query, [id], read_registration).optional()
}

/// The registered workspaces that `id` may contact: its parent, its children and its siblings. `None` when `id` itself
/// is not registered.
///
/// # Errors
/// When the database fails.
pub fn peers(connection: &Connection, id: Uuid) -> rusqlite::Result<Option<Vec<Peer>>> {
    let Some(own) = registration(connection, id)? else { return Ok(None) };
    let mut query = connection.prepare(&peers_query())?;
    let peers = query.query_map(params![id, own.parent_id], |row| {
        let registration = read_registration(row)?;
        let relation = match registration.parent_id {
            Some(parent) if parent == id => Relation::Child,
            _ if own.parent_id == Some(registration.workspace_id) => Relation::Parent,
            _ => Relation::Sibling,
        };
        Ok(Peer { relation, registration })
    })?;
    peers.collect::<Result<_, _>>().map(Some)
}

/// Each part reads one index in its order and stops at the bound, however many workspaces there are. `?1` is the workspace,
/// `?2` its parent.
fn peers_query() -> String {
    let registered_below = |parent: &str| {
        format!(
            "SELECT seq FROM (SELECT seq FROM workspaces INDEXED BY workspaces_registered_by_parent
             WHERE parent_id {parent} AND registered_at IS NOT NULL ORDER BY seq LIMIT {MAX_PEERS} + 1)"
        )
    };
    format!(
        "SELECT {REGISTRATION} FROM workspaces
         WHERE seq IN (SELECT seq FROM workspaces WHERE id = ?2 UNION {children} UNION {siblings})
           AND registered_at IS NOT NULL AND id != ?1
         ORDER BY seq LIMIT {MAX_PEERS}",
        children = registered_below("= ?1"),
        siblings = registered_below("IS ?2"),
    )
}

/// Bounds a response; no team of agents is as large.
const MAX_PEERS: u32 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::migrations::in_memory as database;

    fn make(connection: &Connection, name: &str, parent: Option<Uuid>) -> Uuid {
        let id = create(connection, name, parent, 0).unwrap().unwrap().id;
        register(connection, id, None, 0).unwrap().unwrap();
        id
    }

    #[test]
    fn peers_are_the_registered_parent_children_and_siblings() {
        let connection = database();
        let root = make(&connection, "root", None);
        let other_root = make(&connection, "other root", None);
        let own = make(&connection, "own", Some(root));
        let sibling = make(&connection, "sibling", Some(root));
        let child = make(&connection, "child", Some(own));
        make(&connection, "grandchild", Some(child));
        create(&connection, "silent", Some(own), 0).unwrap();
        let of = |id| -> Vec<_> {
            let peers = peers(&connection, id).unwrap().unwrap().into_iter();
            peers.map(|peer| (peer.registration.workspace_id, peer.relation)).collect()
        };
        let expected =
            [(root, Relation::Parent), (sibling, Relation::Sibling), (child, Relation::Child)];
        assert_eq!(of(own), expected);
        let of_root =
            [(other_root, Relation::Sibling), (own, Relation::Child), (sibling, Relation::Child)];
        assert_eq!(of(root), of_root);
    }

    #[test]
    fn peers_are_found_by_indexes() {
        let connection = database();
        let mut plan =
            connection.prepare(&format!("EXPLAIN QUERY PLAN {}", peers_query())).unwrap();
        let step = |row: &Row<'_>| row.get::<_, String>("detail");
        let steps = plan.query_map(params![Uuid::nil(), Uuid::nil()], step).unwrap();
        for step in steps.map(Result::unwrap) {
            assert!(!step.starts_with("SCAN workspaces"), "{step}");
        }
    }
}
