//! The text of a stream, by the rules of server-sent events (HTML, section 9.2). Pure.

use std::time::Duration;

use protocol::events::{Event, RESYNC};

use crate::db::event::{Bounds, EventRow};
use crate::views::time;

/// The time after which a client connects again.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Where a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// After this id; the client missed nothing.
    After(i64),
    /// After this id, and the client must read anew what it shows: events that it missed are not kept.
    Resync(i64),
}

impl Start {
    /// `last`: the id of the last event that the client received, if it names one.
    pub fn of(last: Option<i64>, bounds: Bounds) -> Self {
        let oldest = bounds.oldest.unwrap_or_else(|| bounds.head.saturating_add(1));
        match last {
            None => Self::After(bounds.head),
            // An id from the future is one of another database.
            Some(last) if last.saturating_add(1) >= oldest && last <= bounds.head => {
                Self::After(last)
            }
            Some(_) => Self::Resync(bounds.head),
        }
    }

    pub fn id(self) -> i64 {
        match self {
            Self::After(id) | Self::Resync(id) => id,
        }
    }

    /// The first text of a stream. The id lets a client that receives nothing else continue from here.
    pub fn text(self) -> String {
        let retry = RETRY_DELAY.as_millis();
        match self {
            Self::After(id) => format!("retry: {retry}\nid: {id}\n\n"),
            Self::Resync(id) => {
                format!("retry: {retry}\nid: {id}\nevent: {RESYNC}\ndata: {{\"id\":{id}}}\n\n")
            }
        }
    }
}

/// An event. JSON on one line: line breaks in its texts are escaped.
pub fn event(row: &EventRow) -> String {
    let event = Event {
        id: row.id,
        at: time(row.at),
        kind: row.kind.clone(),
        tenant: row.tenant.clone(),
        resource: row.resource.clone(),
    };
    let json = serde_json::to_string(&event).unwrap_or_default();
    format!("id: {}\nevent: {}\ndata: {json}\n\n", row.id, row.kind)
}

/// A comment that keeps the connection open. The id moves a client past events that it may not see, and raises no event.
pub fn heartbeat(last: i64) -> String {
    format!(": heartbeat\nid: {last}\n\n")
}

#[cfg(test)]
mod tests {
    use protocol::TenantId;
    use protocol::events::{EventResource, EventTenant};

    use super::*;

    #[test]
    fn a_client_continues_where_nothing_is_missing() {
        let bounds = |oldest, head| Bounds { head, oldest };
        for (last, bounds, expected) in [
            (None, bounds(None, 0), Start::After(0)),
            (None, bounds(Some(1), 7), Start::After(7)),
            (Some(0), bounds(None, 0), Start::After(0)),
            (Some(0), bounds(Some(1), 7), Start::After(0)),
            (Some(7), bounds(Some(1), 7), Start::After(7)),
            (Some(8), bounds(Some(1), 7), Start::Resync(7)),
            (Some(1), bounds(None, 0), Start::Resync(0)),
            // 5 was not received, and is not kept.
            (Some(4), bounds(Some(6), 7), Start::Resync(7)),
            (Some(5), bounds(Some(6), 7), Start::After(5)),
            (Some(6), bounds(None, 7), Start::Resync(7)),
            (Some(7), bounds(None, 7), Start::After(7)),
            (Some(i64::MAX), bounds(Some(1), 7), Start::Resync(7)),
            (Some(i64::MIN), bounds(Some(1), 7), Start::Resync(7)),
            (Some(7), bounds(None, i64::MAX), Start::Resync(i64::MAX)),
        ] {
            assert_eq!(Start::of(last, bounds), expected, "{last:?} {bounds:?}");
        }
    }

    #[test]
    fn a_stream_is_text_of_server_sent_events() {
        let at = "2027-01-15T08:00:00Z".parse().unwrap();
        let row = EventRow {
            id: 7,
            at,
            kind: "membership.changed".to_owned(),
            tenant: Some(EventTenant {
                id: TenantId::new(uuid::Uuid::nil()),
                slug: "acme".parse().unwrap(),
                name: "Acme\n\nid: 9\n\n".to_owned(),
                desired: protocol::spec::Desired::Running,
                state: protocol::State::Running,
                state_since: time(at),
                state_reason: None,
                revision: 3,
            }),
            resource: Some(EventResource {
                kind: "membership".to_owned(),
                id: "1".to_owned(),
                name: Some("mia@example.com".to_owned()),
                role: Some("admin".to_owned()),
                app: None,
                state: None,
            }),
        };
        let all = [Start::After(6).text(), event(&row), heartbeat(7), Start::Resync(8).text()];
        insta::assert_snapshot!(all.concat(), @r#"
        retry: 2000
        id: 6

        id: 7
        event: membership.changed
        data: {"id":7,"at":"2027-01-15T08:00:00.000Z","kind":"membership.changed","tenant":{"id":"00000000-0000-0000-0000-000000000000","slug":"acme","name":"Acme\n\nid: 9\n\n","desired":"running","state":"running","state_since":"2027-01-15T08:00:00.000Z","state_reason":null,"revision":3},"resource":{"kind":"membership","id":"1","name":"mia@example.com","role":"admin"}}

        : heartbeat
        id: 7

        retry: 2000
        id: 8
        event: resync
        data: {"id":8}
        "#);
    }
}
