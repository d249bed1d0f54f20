//! The activity log.

use hyper::StatusCode;
use protocol::history::AppendActivity;
use protocol::problem::FieldCode;
use protocol::{Problem, Timestamp};
use tenant_service::{RequestBody, Response};

use super::query::Query;
use super::{Back, CallError, invalid_field, now, read, respond};
use crate::history::Millis;
use crate::history::activity::{self, ActivityFilter};

pub(super) const PARAMETERS: [&str; 6] =
    ["peer_id", "workspace_id", "type", "limit", "before_ts", "cursor"];
const MAX_TEXT_CHARS: usize = 100;
const MAX_SUMMARY_CHARS: usize = 4_000;

impl Back {
    pub(super) async fn list_activity(&self, query: Option<&str>) -> Result<Response, CallError> {
        let query = Query::parse(query, &PARAMETERS)?;
        let filter = ActivityFilter {
            peer_id: query.id("peer_id")?,
            workspace_id: query.id("workspace_id")?,
            kind: query.short_text("type")?,
        };
        let page = query.page()?;
        let list = self.history.read(move |connection| activity::list(connection, &filter, &page));
        respond(StatusCode::OK, &list.await?)
    }

    pub(super) async fn append_activity(&self, body: RequestBody) -> Result<Response, CallError> {
        let entry: AppendActivity = read(body).await?;
        let created_at = check(&entry, now())?;
        let append = move |connection: &_| activity::append(connection, entry, created_at);
        let unknown =
            || invalid_field("workspace_id", FieldCode::Invalid, "must be the id of a workspace");
        let appended = self.history.write(append).await?.ok_or_else(unknown)?;
        respond(StatusCode::CREATED, &appended)
    }
}

/// Checks the texts of an entry and returns its time.
fn check(entry: &AppendActivity, now: Millis) -> Result<Millis, Box<Problem>> {
    let texts = [
        ("type", Some(&entry.kind), 1, MAX_TEXT_CHARS),
        ("method", entry.method.as_ref(), 0, MAX_TEXT_CHARS),
        ("status", entry.status.as_ref(), 0, MAX_TEXT_CHARS),
        ("summary", entry.summary.as_ref(), 0, MAX_SUMMARY_CHARS),
    ];
    for (field, text, min, max) in texts {
        let length = text.map_or(min, |text| text.chars().count());
        if length < min {
            return Err(invalid_field(field, FieldCode::Required, "must not be empty"));
        }
        if length > max {
            let message = format!("must have at most {max} characters");
            return Err(invalid_field(field, FieldCode::TooLong, &message));
        }
    }
    let Some(text) = &entry.created_at else { return Ok(now) };
    let time = chrono::DateTime::parse_from_rfc3339(text).ok().map(Timestamp::from);
    let time = time.map(|time| time.timestamp_millis()).filter(|time| (0..=now).contains(time));
    let message =
        "must be an RFC3339 timestamp (e.g. 2026-05-01T00:00:00Z) that is not in the future";
    time.ok_or_else(|| invalid_field("created_at", FieldCode::Invalid, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_a_type_short_texts_and_a_time_that_has_come() {
        let long = "ä".repeat(MAX_SUMMARY_CHARS + 1);
        for (field, value, is_good) in [
            ("type", "", false),
            ("method", &long[..], false),
            ("summary", &long[2..], true),
            ("summary", &long[..], false),
            ("created_at", "1970-01-01T00:00:05Z", true),
            ("created_at", "1970-01-01T00:00:05.001Z", false),
            ("created_at", "1969-12-31T00:00:00Z", false),
            ("created_at", "yesterday", false),
        ] {
            let mut entry = serde_json::json!({ "workspace_id": uuid::Uuid::nil(), "type": "x" });
            entry[field] = value.into();
            let checked = check(&serde_json::from_value(entry).unwrap(), 5_000);
            let faulty = checked.err().map(|problem| problem.errors[0].field.clone());
            assert_eq!(faulty.as_deref(), (!is_good).then_some(field), "{value}");
        }
    }
}
