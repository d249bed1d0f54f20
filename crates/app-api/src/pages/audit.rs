//! The page of the audit log: a filter form, the latest entries, links to older ones and to the exports.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use protocol::Timestamp;
use protocol::audit::AuditEntry;
use serde_json::Value;
use service::api_error::ApiError;
use url::form_urlencoded::Serializer;

use super::field::Field;
use super::format::ago;
use super::{Layout, page};
use crate::access::Person;
use crate::app::App;
use crate::audit::query::{self, AuditQuery};
use crate::http::extract::Query;

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditLogPage {
    layout: Layout,
    actor: Field,
    action: Field,
    resource: Field,
    is_filtered: bool,
    /// The filter as a query string that begins with `&`; empty without a filter.
    filter: String,
    rows: Vec<Row>,
    next: Option<String>,
}

struct Row {
    at: String,
    ago: String,
    actor: String,
    role: String,
    action: String,
    resource: String,
    changes: Vec<FieldChange>,
    address: String,
    request_id: String,
}

/// A changed field; a missing side was added or removed.
struct FieldChange {
    name: String,
    before: Option<String>,
    after: Option<String>,
}

impl Row {
    fn new(entry: AuditEntry<Value>, now: Timestamp) -> Self {
        let at = entry.at.parse().unwrap_or(now);
        Self {
            ago: ago(at, now),
            changes: field_changes(entry.before.as_ref(), entry.after.as_ref()),
            at: entry.at,
            actor: entry.actor,
            role: entry.role,
            action: entry.action,
            resource: entry.resource,
            address: entry.address,
            request_id: entry.request_id,
        }
    }
}

fn field_changes(before: Option<&Value>, after: Option<&Value>) -> Vec<FieldChange> {
    let fields =
        |side: Option<&Value>| side.and_then(Value::as_object).cloned().unwrap_or_default();
    let (before, mut after) = (fields(before), fields(after));
    let mut changes: Vec<_> = before
        .into_iter()
        .map(|(name, value)| {
            let after = after.shift_remove(&name).map(text);
            FieldChange { name, before: Some(text(value)), after }
        })
        .collect();
    let added = after.into_iter();
    changes.extend(added.map(|(name, value)| FieldChange {
        name,
        before: None,
        after: Some(text(value)),
    }));
    changes
}

fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}

pub async fn show_audit(
    State(app): State<App>,
    person: Person,
    Query(query): Query<AuditQuery>,
) -> Result<Response, ApiError> {
    let listed = query::list(&mut *app.conn().await?, &query).await?;
    let now = app.clock.now();
    let filter = filter_query(&query);
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let shown = AuditLogPage {
        layout: Layout::signed_in(&person, "Audit log"),
        actor: Field::new("actor", "Actor", "text").optional().value(&text(&query.actor)),
        action: Field::new("action", "Action", "text").optional().value(&text(&query.action)),
        resource: Field::new("resource", "Resource", "text")
            .optional()
            .value(&text(&query.resource)),
        is_filtered: !filter.is_empty(),
        filter,
        rows: listed.entries.into_iter().map(|entry| Row::new(entry, now)).collect(),
        next: listed.next,
    };
    page(StatusCode::OK, &shown)
}

fn filter_query(query: &AuditQuery) -> String {
    let parts = [
        ("actor", &query.actor),
        ("action", &query.action),
        ("resource", &query.resource),
        ("since", &query.since),
        ("until", &query.until),
    ];
    let mut text = Serializer::new(String::new());
    for (name, value) in parts {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            text.append_pair(name, value);
        }
    }
    let text = text.finish();
    if text.is_empty() { text } else { format!("&{text}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_changed_field_has_its_sides() {
        let (before, after) =
            (json!({ "name": "A", "old": 1 }), json!({ "name": "B", "new": [2] }));
        let changes = field_changes(Some(&before), Some(&after));
        let shown: Vec<_> = changes
            .iter()
            .map(|c| (c.name.as_str(), c.before.as_deref(), c.after.as_deref()))
            .collect();
        let expected =
            [("name", Some("A"), Some("B")), ("old", Some("1"), None), ("new", None, Some("[2]"))];
        assert_eq!(shown, expected);
    }

    #[test]
    fn links_keep_the_filter() {
        let query = AuditQuery {
            action: Some("tenant.create".to_owned()),
            resource: Some("tenant:a b".to_owned()),
            actor: Some(String::new()),
            ..AuditQuery::default()
        };
        assert_eq!(filter_query(&query), "&action=tenant.create&resource=tenant%3Aa+b");
        assert_eq!(filter_query(&AuditQuery::default()), "");
    }
}
