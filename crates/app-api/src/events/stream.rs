//! One stream of events: reads the rows after the last id whenever there are newer ones.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures_util::stream;
use protocol::api_keys::Role;
use protocol::problem::Code;
use service::api_error::ApiError;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, timeout};

use super::frame::{self, Start};
use super::slots::{NoSlot, StreamSlot};
use crate::access::Principal;
use crate::access::authority::reload_principal;
use crate::access::principal::CallerScope;
use crate::app::App;
use crate::db::event::{self, Audience, Bounds, EventRow};

/// Proxies end a connection that is silent for longer, typically after 30 s or more.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// The most events of one read.
const BATCH: i64 = 100;
/// The events of a burst are sent together, so that no caller can let all streams read at every change.
const READ_INTERVAL: Duration = Duration::from_millis(500);
const BUSY_DELAY: Duration = Duration::from_secs(5);

/// The events that `caller` may see from now on, or from the event after `last`.
///
/// # Errors
/// `rate_limited` and `busy`, when there are too many streams; `database_unavailable`. A failure during the stream breaks
/// the connection off, and the client continues on another.
pub async fn open(app: &App, caller: Principal, last: Option<i64>) -> Result<Response, ApiError> {
    let slot = app.events.slots.take(caller.owner_id()).map_err(refusal)?;
    let known = app.events.head.subscribe();
    let bounds = event::bounds(&mut *app.conn().await?).await?;
    let start = Start::of(last, bounds);
    let mut reads = tokio::time::interval(READ_INTERVAL);
    reads.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = EventStream {
        app: app.clone(),
        caller,
        opening: Some(start.text()),
        position: Position { last: start.id(), head: bounds.head, known },
        reads,
        _slot: slot,
    };
    let body = Body::from_stream(stream::try_unfold(events, EventStream::next));
    Ok(app.until_stop(Response::new(body)))
}

fn refusal(no_slot: NoSlot) -> ApiError {
    match no_slot {
        NoSlot::OfCaller => {
            let detail = "You have too many streams of events. Close one of them first.";
            ApiError::new(Code::RateLimited, detail).with_retry_after(BUSY_DELAY)
        }
        NoSlot::OfAll => {
            let detail = "There are too many streams of events. Try again in some seconds.";
            ApiError::new(Code::Busy, detail).with_retry_after(BUSY_DELAY)
        }
    }
}

struct EventStream {
    app: App,
    caller: Principal,
    /// The first text, until it is sent.
    opening: Option<String>,
    position: Position,
    /// The times before which the stream reads nothing.
    reads: Interval,
    _slot: StreamSlot,
}

impl EventStream {
    async fn next(mut self) -> anyhow::Result<Option<(Bytes, Self)>> {
        if let Some(text) = self.opening.take() {
            return Ok(Some((text.into(), self)));
        }
        loop {
            let step = self.position.next_step().await;
            if step == Step::End {
                return Ok(None);
            }
            self.reads.tick().await;
            let found = self.read(step).await?;
            let text = match found {
                Found::NoAccess => return Ok(None),
                Found::Gap(start) => {
                    self.position.restart(start.id());
                    start.text()
                }
                Found::Rows(rows) => {
                    self.advance(&rows);
                    rows.iter().map(frame::event).collect()
                }
                Found::Nothing => frame::heartbeat(self.position.last),
            };
            if !text.is_empty() {
                return Ok(Some((text.into(), self)));
            }
        }
    }

    fn advance(&mut self, rows: &[EventRow]) {
        let is_full = i64::try_from(rows.len()).is_ok_and(|count| count >= BATCH);
        self.position.advance(rows.last().map(|row| row.id), is_full);
        if is_full {
            self.reads.reset_immediately();
        }
    }

    /// Reads the next events that the caller may see at this moment; for a heartbeat, only whether events are missing.
    async fn read(&self, step: Step) -> anyhow::Result<Found> {
        let last = self.position.last;
        if step == Step::Heartbeat {
            let bounds = event::bounds(&mut *self.app.database.conn().await?).await?;
            return Ok(gap(last, bounds).map_or(Found::Nothing, Found::Gap));
        }
        let reloaded = reload_principal(&self.app, &self.caller).await;
        let Some(caller) = reloaded.map_err(ApiError::into_error)? else {
            return Ok(Found::NoAccess);
        };
        let Some(audience) = audience(&caller) else { return Ok(Found::NoAccess) };
        let mut conn = self.app.database.conn().await?;
        let rows = event::after(&mut conn, audience, last, BATCH).await?;
        // Bounds that are read before the rows would not show what is pruned between the two.
        let bounds = event::bounds(&mut conn).await?;
        Ok(gap(last, bounds).map_or(Found::Rows(rows), Found::Gap))
    }
}

/// The result of a read.
enum Found {
    Rows(Vec<EventRow>),
    /// Events after the last id are not kept any more, or the database is another one.
    Gap(Start),
    Nothing,
    /// The session or the key has ended.
    NoAccess,
}

/// The new beginning of a stream that may have missed events after `last`: a client that reads slowly, while they are pruned.
fn gap(last: i64, bounds: Bounds) -> Option<Start> {
    let start = Start::of(Some(last), bounds);
    matches!(start, Start::Resync(_)).then_some(start)
}

/// How far a stream has come.
struct Position {
    /// The id up to which the stream has sent all that its caller may see.
    last: i64,
    /// The id of the last event at the beginning of the stream.
    head: i64,
    /// The id of the last event that this process knows of.
    known: watch::Receiver<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Read,
    Heartbeat,
    End,
}

impl Position {
    /// Waits until there are events after the last id, or until the connection needs a sign of life.
    async fn next_step(&mut self) -> Step {
        loop {
            self.head = self.head.max(*self.known.borrow_and_update());
            if self.head > self.last {
                return Step::Read;
            }
            match timeout(HEARTBEAT_INTERVAL, self.known.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Step::End,
                Err(_) => return Step::Heartbeat,
            }
        }
    }

    /// Begins anew after an id, which may be a lower one.
    const fn restart(&mut self, id: i64) {
        (self.last, self.head) = (id, id);
    }

    /// Moves past what was read. `is_full`: there may be further rows up to the head.
    fn advance(&mut self, last_row: Option<i64>, is_full: bool) {
        let read_to = last_row.unwrap_or(self.last);
        // Rows are visible in the order of their ids: all up to the head that the caller may see were read.
        self.last = if is_full { read_to } else { read_to.max(self.head) };
    }
}

/// The events that the caller may see; `None` for a caller who sees none.
fn audience(caller: &Principal) -> Option<Audience> {
    let (tenant, limit) = match caller {
        Principal::Session(_) => (None, Role::Admin),
        Principal::Key(key) => (key.tenant.as_ref().map(|tenant| tenant.id.uuid()), key.role),
        Principal::Service => return None,
    };
    let platform = match caller.scope() {
        CallerScope::Platform => Some(Role::Admin),
        CallerScope::PlatformRead => Some(Role::Read),
        CallerScope::AllTenants(_)
        | CallerScope::OneTenant(..)
        | CallerScope::Memberships
        | CallerScope::Services => None,
    };
    Some(Audience {
        tenant,
        tenants: caller.role_on_tenant(None),
        platform,
        person: caller.user_id().map(|id| (id, limit)),
    })
}

#[cfg(test)]
mod tests {
    use protocol::TenantId;
    use uuid::Uuid;

    use super::*;
    use crate::db::api_key::{ApiKey, KeyTenant};
    use crate::db::user::User;

    const TENANT: Uuid = Uuid::from_u128(1);
    const PERSON: Uuid = Uuid::from_u128(2);

    /// A key that is confined to a tenant, or belongs to a person of this role, or both.
    fn key(id: Uuid, is_confined: bool, role: Option<&str>) -> Principal {
        key_with(Role::Admin, id, is_confined, role)
    }

    fn key_with(own: Role, id: Uuid, is_confined: bool, role: Option<&str>) -> Principal {
        Principal::Key(ApiKey {
            id,
            name: String::new(),
            role: own,
            is_admin: false,
            tenant: is_confined
                .then(|| KeyTenant { id: TenantId::new(TENANT), slug: "acme".parse().unwrap() }),
            person: role.map(|role| User {
                id: PERSON,
                email: String::new(),
                name: String::new(),
                role: role.to_owned(),
                password_hash: String::new(),
            }),
            created_by_key: None,
            created_at: protocol::Timestamp::UNIX_EPOCH,
            expires_at: None,
            last_used_at: None,
            revoked: false,
        })
    }

    #[test]
    fn more_keys_give_nobody_more_streams() {
        let id = Uuid::from_u128(3);
        for (is_confined, role, expected) in [
            (false, None, id),
            (true, None, TENANT),
            (false, Some("none"), PERSON),
            (true, Some("none"), PERSON),
        ] {
            assert_eq!(key(id, is_confined, role).owner_id(), expected, "{is_confined} {role:?}");
        }
    }

    #[test]
    fn an_open_stream_finds_out_what_it_missed() {
        let bounds = |oldest, head| Bounds { head, oldest };
        for (last, bounds, expected) in [
            (7, bounds(Some(1), 7), None),
            (7, bounds(Some(8), 9), None),
            (7, bounds(Some(9), 9), Some(Start::Resync(9))),
            (7, bounds(None, 9), Some(Start::Resync(9))),
            // A database that was restored.
            (7, bounds(Some(1), 5), Some(Start::Resync(5))),
        ] {
            assert_eq!(gap(last, bounds), expected, "{last} {bounds:?}");
        }
    }

    #[test]
    fn a_key_of_a_person_shows_what_both_may_see() {
        let (read, write, admin) = (Role::Read, Role::Write, Role::Admin);
        let (here, person) = (Some(TENANT), |limit| Some((PERSON, limit)));
        for (own, is_confined, role, (tenant, tenants, platform, person)) in [
            (admin, false, None, (None, Some(admin), None, None)),
            (read, true, None, (here, Some(read), None, None)),
            (admin, false, Some("owner"), (None, Some(admin), Some(admin), person(admin))),
            (read, false, Some("owner"), (None, Some(read), Some(read), person(read))),
            (admin, true, Some("owner"), (here, Some(admin), None, person(admin))),
            (admin, false, Some("viewer"), (None, Some(read), Some(read), person(admin))),
            (write, true, Some("viewer"), (here, Some(read), None, person(write))),
            (admin, false, Some("none"), (None, None, None, person(admin))),
            (read, true, Some("none"), (here, None, None, person(read))),
        ] {
            let expected = Audience { tenant, tenants, platform, person };
            let found = audience(&key_with(own, Uuid::nil(), is_confined, role));
            assert_eq!(found, Some(expected), "{own} {is_confined} {role:?}");
        }
        assert_eq!(audience(&Principal::Service), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_reads_what_is_new_and_gives_signs_of_life() {
        let sender = watch::Sender::new(0);
        let mut position = Position { last: 4, head: 7, known: sender.subscribe() };
        // The process knows of no event yet, and the stream begins in the past.
        assert_eq!(position.next_step().await, Step::Read);
        position.advance(Some(5), true);
        assert_eq!((position.last, position.next_step().await), (5, Step::Read));
        position.advance(Some(6), false);
        // 7 is none of the caller's.
        assert_eq!((position.last, position.next_step().await), (7, Step::Heartbeat));
        sender.send_replace(7);
        assert_eq!(position.next_step().await, Step::Heartbeat);
        sender.send_replace(8);
        assert_eq!(position.next_step().await, Step::Read);
        // 9 was committed between the notification and the read.
        position.advance(Some(9), false);
        sender.send_replace(9);
        assert_eq!((position.last, position.next_step().await), (9, Step::Heartbeat));
        sender.send_replace(10);
        assert_eq!(position.next_step().await, Step::Read);
        position.advance(None, false);
        assert_eq!(position.last, 10);
        drop(sender);
        assert_eq!(position.next_step().await, Step::End);
    }
}
