//! The activity log of all workspaces of the tenant.

use protocol::history::{Activity, AppendActivity, Page};
use rusqlite::{Connection, Row, ToSql, params, params_from_iter};
use uuid::Uuid;

use super::page::{PageRequest, Position};
use super::{Millis, workspaces};
use crate::rfc3339;

/// The entries that a list shows. With no filter, all of them.
#[derive(Clone, Debug, Default)]
pub struct ActivityFilter {
    /// Entries whose source or target this is.
    pub peer_id: Option<Uuid>,
    pub workspace_id: Option<Uuid>,
    pub kind: Option<String>,
}

/// Adds an entry. `None` when there is no such workspace.
///
/// # Errors
/// When the database fails.
pub fn append(
    connection: &Connection,
    entry: AppendActivity,
    created_at: Millis,
) -> rusqlite::Result<Option<Activity>> {
    let AppendActivity {
        workspace_id, kind, source_id, target_id, method, summary, status, ..
    } = entry;
    if !workspaces::exists(connection, workspace_id)? {
        return Ok(None);
    }
    let duration_ms = entry.duration_ms;
    connection.execute(
        "INSERT INTO activity
         (workspace_id, kind, source_id, target_id, method, summary, status, duration_ms, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            workspace_id, kind, source_id, target_id, method, summary, status, duration_ms, created_at
        ],
    )?;
    let id = connection.last_insert_rowid();
    let created_at = rfc3339(created_at);
    Ok(Some(Activity {
        id,
        workspace_id,
        kind,
        source_id,
        target_id,
        method,
        summary,
        status,
        duration_ms,
        created_at,
    }))
}

/// # Errors
/// When the database fails.
pub fn list(
    connection: &Connection,
    filter: &ActivityFilter,
    request: &PageRequest,
) -> rusqlite::Result<Page<Activity>> {
    let (text, parameters) = query(filter, request);
    let mut query = connection.prepare(&text)?;
    let rows = query.query_map(params_from_iter(parameters), read)?;
    Ok(request.page(rows.collect::<Result<_, _>>()?))
}

/// Each part reads one index in its order and stops at the page's end: for a peer, one part reads the sources and one
/// the targets, and what is in both counts once.
fn query(filter: &ActivityFilter, request: &PageRequest) -> (String, Vec<Box<dyn ToSql>>) {
    let ActivityFilter { peer_id, workspace_id, kind } = filter;
    let indexes: &[(&str, &str)] = match (peer_id, workspace_id, kind) {
        (Some(_), _, _) => &[
            ("activity_by_source", "source_id = ?1 AND "),
            ("activity_by_target", "target_id = ?1 AND "),
        ],
        (None, Some(_), Some(_)) => &[("activity_by_workspace_and_kind", "")],
        (None, Some(_), None) => &[("activity_by_workspace", "")],
        (None, None, Some(_)) => &[("activity_by_kind", "")],
        (None, None, None) => &[("activity_by_time", "")],
    };
    let workspace = if workspace_id.is_some() { "workspace_id = ?2 AND " } else { "" };
    let kind_is = if kind.is_some() { "kind = ?3 AND " } else { "" };
    let parts: Vec<_> = indexes
        .iter()
        .map(|(index, peer)| {
            format!(
                "SELECT * FROM (SELECT id, created_at FROM activity INDEXED BY {index}
                 WHERE {peer}{workspace}{kind_is}(created_at, id) < (?4, ?5)
                 ORDER BY created_at DESC, id DESC LIMIT ?6)"
            )
        })
        .collect();
    let text = format!(
        "SELECT created_at, id, workspace_id, kind, source_id, target_id, method, summary, status, duration_ms
         FROM activity JOIN ({}) USING (id, created_at)
         ORDER BY created_at DESC, id DESC LIMIT ?6",
        parts.join(" UNION ")
    );
    let Position { created_at, number } = request.before;
    let parameters: Vec<Box<dyn ToSql>> = vec![
        Box::new(*peer_id),
        Box::new(*workspace_id),
        Box::new(kind.clone()),
        Box::new(created_at),
        Box::new(number),
        Box::new(request.row_count()),
    ];
    (text, parameters)
}

fn read(row: &Row<'_>) -> rusqlite::Result<(Position, Activity)> {
    let position = Position { created_at: row.get(0)?, number: row.get(1)? };
    let activity = Activity {
        id: position.number,
        workspace_id: row.get(2)?,
        kind: row.get(3)?,
        source_id: row.get(4)?,
        target_id: row.get(5)?,
        method: row.get(6)?,
        summary: row.get(7)?,
        status: row.get(8)?,
        duration_ms: row.get(9)?,
        created_at: rfc3339(position.created_at),
    };
    Ok((position, activity))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::history::migrations;

    const PEERS: u128 = 3;

    fn database() -> (Connection, Uuid) {
        let connection = migrations::in_memory();
        let made = workspaces::create(&connection, "one", None, 0).unwrap();
        (connection, made.unwrap().id)
    }

    fn entry(workspace_id: Uuid, kind: &str, source: u128, target: u128) -> AppendActivity {
        AppendActivity {
            workspace_id,
            kind: kind.to_owned(),
            source_id: Some(Uuid::from_u128(source)),
            target_id: Some(Uuid::from_u128(target)),
            method: None,
            summary: None,
            status: None,
            duration_ms: None,
            created_at: None,
        }
    }

    #[test]
    fn an_entry_of_no_workspace_is_not_stored() {
        let (connection, _) = database();
        assert_eq!(append(&connection, entry(Uuid::nil(), "a", 1, 2), 0), Ok(None));
    }

    #[test]
    fn each_filter_reads_an_index_in_its_order() {
        let (connection, id) = database();
        let filter = |peer_id, workspace_id, kind: Option<&str>| ActivityFilter {
            peer_id,
            workspace_id,
            kind: kind.map(str::to_owned),
        };
        for filter in [
            filter(None, None, None),
            filter(None, None, Some("a")),
            filter(None, Some(id), None),
            filter(None, Some(id), Some("a")),
            filter(Some(id), Some(id), Some("a")),
        ] {
            let (text, parameters) = query(&filter, &PageRequest::new(None, None, None));
            let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
            let step = |row: &Row<'_>| row.get::<_, String>("detail");
            let steps = plan.query_map(params_from_iter(parameters), step).unwrap();
            for step in steps.map(Result::unwrap) {
                assert!(!step.starts_with("SCAN activity"), "{filter:?}: {step}");
                if step.contains("activity_by_workspace_and_kind") {
                    assert!(step.contains("workspace_id=? AND kind=?"), "{step}");
                }
            }
        }
    }

    proptest! {
        /// Pages hold each entry once, also with equal times and with later entries that are added meanwhile.
        #[test]
        fn pages_neither_skip_nor_repeat_an_entry(
            entries in prop::collection::vec((0..4_i64, 0..PEERS, 0..PEERS, prop::bool::ANY), 0..40),
            (peer, has_kind) in (prop::option::of(0..PEERS), prop::bool::ANY),
            (limit, before_ts) in (1..6_u32, prop::option::of(0..5_i64)),
        ) {
            let (connection, id) = database();
            let mut expected = Vec::new();
            for (time, source, target, is_a) in entries {
                let kind = if is_a { "a" } else { "b" };
                let made = append(&connection, entry(id, kind, source, target), time).unwrap().unwrap();
                let is_listed = peer.is_none_or(|peer| peer == source || peer == target)
                    && (!has_kind || is_a)
                    && before_ts.is_none_or(|before| time < before);
                if is_listed {
                    expected.push((time, made.id));
                }
            }
            expected.sort_unstable();
            expected.reverse();
            let filter = ActivityFilter {
                peer_id: peer.map(Uuid::from_u128),
                workspace_id: Some(id),
                kind: has_kind.then(|| "a".to_owned()),
            };
            let (mut listed, mut cursor) = (Vec::new(), None);
            loop {
                let request = PageRequest::new(Some(limit), before_ts, cursor);
                let page = list(&connection, &filter, &request).unwrap();
                prop_assert!(page.items.len() <= limit as usize);
                listed.extend(page.items.into_iter().map(|entry| entry.id));
                append(&connection, entry(id, "a", 0, 1), 9).unwrap();
                let Some(next) = page.next else { break };
                // Only the first page can hold what came later.
                cursor = Position::from_cursor(&next);
                prop_assert!(cursor.is_some());
            }
            let expected: Vec<_> = expected.into_iter().map(|(_, id)| id).collect();
            prop_assert_eq!(listed, expected);
        }
    }
}
