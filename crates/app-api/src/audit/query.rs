//! The filters of the audit log.

use protocol::Timestamp;
use protocol::audit::{AuditEntry, AuditPage};
use serde::Deserialize;
use serde_json::Value;
use service::api_error::ApiError;
use utoipa::IntoParams;

use super::chain::hex;
use crate::db::Conn;
use crate::db::audit_log::{self, AuditRow, Order};
use crate::http::extract::invalid_query;

const DEFAULT_LIMIT: i64 = 100;
const MAX_LIMIT: i64 = 500;

/// Narrows the entries; each part is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// The name or the id of the actor.
    pub actor: Option<String>,
    pub action: Option<String>,
    /// The kind of the resource and, if given, its name.
    pub resource: Option<(String, Option<String>)>,
    /// Entries at or after this time.
    pub since: Option<Timestamp>,
    /// Entries before this time.
    pub until: Option<Timestamp>,
}

/// The filters as they stand in a query string.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
pub struct AuditQuery {
    pub actor: Option<String>,
    pub action: Option<String>,
    pub resource: Option<String>,
    pub since: Option<String>,
    pub until: Option<String>,
    pub cursor: Option<String>,
    pub limit: Option<i64>,
    /// Only for exports.
    pub format: Option<String>,
}

impl AuditQuery {
    /// # Errors
    /// `invalid_query`, which names the parameter.
    pub fn filter(&self) -> Result<AuditFilter, ApiError> {
        let text = |value: &Option<String>, field: &str| match value.as_deref().map(str::trim) {
            None | Some("") => Ok(None),
            Some(text) if text.contains('\0') => Err(invalid_query(field, "must be text")),
            Some(text) => Ok(Some(text.to_owned())),
        };
        let time = |value: &Option<String>, field: &str| match text(value, field)? {
            None => Ok(None),
            Some(text) => {
                let rule = "must be a time by RFC 3339";
                text.parse::<Timestamp>().map(Some).map_err(|_| invalid_query(field, rule))
            }
        };
        let resource = text(&self.resource, "resource")?.map(|text| match text.split_once(':') {
            Some((kind, name)) => (kind.to_owned(), Some(name.to_owned())),
            None => (text, None),
        });
        Ok(AuditFilter {
            actor: text(&self.actor, "actor")?,
            action: text(&self.action, "action")?,
            resource,
            since: time(&self.since, "since")?,
            until: time(&self.until, "until")?,
        })
    }

    fn limit(&self) -> Result<i64, ApiError> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        let is_valid = (1..=MAX_LIMIT).contains(&limit);
        if is_valid { Ok(limit) } else { Err(invalid_query("limit", "must be 1 to 500")) }
    }

    fn cursor(&self) -> Result<i64, ApiError> {
        let rule = "is not the `next` of an earlier page";
        match self.cursor.as_deref() {
            None | Some("") => Ok(i64::MAX),
            Some(text) => text.parse().map_err(|_| invalid_query("cursor", rule)),
        }
    }
}

/// Returns one page of the log, the latest entry first.
///
/// # Errors
/// `invalid_query`.
pub async fn list(conn: &mut Conn, query: &AuditQuery) -> Result<AuditPage<Value>, ApiError> {
    let (filter, limit, before) = (query.filter()?, query.limit()?, query.cursor()?);
    let order = Order::LatestBefore(before);
    // One extra row shows whether there is a next page.
    let mut rows = audit_log::list(conn, &filter, order, limit + 1).await?;
    let has_more = i64::try_from(rows.len()).is_ok_and(|count| count > limit);
    if has_more {
        rows.pop();
    }
    let next = rows.last().filter(|_| has_more).map(|row| row.id.to_string());
    Ok(AuditPage { entries: rows.into_iter().map(entry).collect(), next })
}

/// The entry on the wire.
pub fn entry(row: AuditRow) -> AuditEntry<Value> {
    AuditEntry {
        id: row.id,
        at: row.at(),
        resource: row.resource(),
        actor: row.actor,
        actor_kind: row.actor_kind,
        actor_id: row.actor_id,
        role: row.role,
        session_id: row.session_id,
        action: row.action,
        before: row.before,
        after: row.after,
        address: row.address,
        request_id: row.request_id,
        hash: hex(&row.hash),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_parsed_or_name_their_parameter() {
        let query = |text: &str| {
            let uri = format!("/v1/audit?{text}").parse().unwrap();
            axum::extract::Query::<AuditQuery>::try_from_uri(&uri).unwrap().0
        };
        let filter =
            query("actor=ada@b.c&resource=tenant:acme&since=2027-01-01T00:00:00Z&action=").filter();
        assert_eq!(
            filter.unwrap(),
            AuditFilter {
                actor: Some("ada@b.c".to_owned()),
                action: None,
                resource: Some(("tenant".to_owned(), Some("acme".to_owned()))),
                since: Some("2027-01-01T00:00:00Z".parse().unwrap()),
                until: None,
            }
        );
        assert_eq!(
            query("resource=tenant").filter().unwrap().resource,
            Some(("tenant".to_owned(), None))
        );
        for (text, field) in
            [("since=yesterday", "since"), ("until=1", "until"), ("actor=%00", "actor")]
        {
            assert_eq!(query(text).filter().unwrap_err().problem.errors[0].field, field, "{text}");
        }
        for text in ["limit=0", "limit=501", "limit=-1"] {
            assert!(query(text).limit().is_err(), "{text}");
        }
        assert!(query("cursor=x").cursor().is_err());
        assert_eq!(query("cursor=7").cursor().unwrap(), 7);
    }
    proptest::proptest! {
        #[test]
        fn any_text_is_a_filter_or_an_error_that_names_its_parameter(
            [actor, resource, since, cursor] in proptest::array::uniform4("\\PC*|[0-9:TZ.+-]{0,40}|\0"),
            limit in proptest::num::i64::ANY,
        ) {
            let query = AuditQuery {
                actor: Some(actor.clone()),
                resource: Some(resource),
                since: Some(since),
                cursor: Some(cursor),
                limit: Some(limit),
                ..AuditQuery::default()
            };
            for (parsed, fields) in [
                (query.filter().map(drop), &["actor", "resource", "since"][..]),
                (query.limit().map(drop), &["limit"]),
                (query.cursor().map(drop), &["cursor"]),
            ] {
                if let Err(error) = parsed {
                    proptest::prop_assert_eq!(error.problem.status, 400);
                    proptest::prop_assert!(fields.contains(&error.problem.errors[0].field.as_str()));
                }
            }
            if let Ok(filter) = query.filter() {
                let trimmed = actor.trim();
                proptest::prop_assert_eq!(filter.actor.as_deref().unwrap_or_default(), trimmed);
            }
        }
    }
}
