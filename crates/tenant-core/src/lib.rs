//! The trusted half of a tenant: sessions, SSO and the tenant's history (`back`), and the core's pages (`front`).
//!
//! Both listen on unix sockets in a directory that only `cial` may enter. The headers of the edge are therefore
//! believed: the forwarded scheme and the signed-in user.

pub mod back;
pub mod busy;
pub mod channel;
pub mod front;
pub mod history;
pub mod session_file;
pub mod session_table;
pub mod token;

/// Seconds since 1970, the unit of times in tokens and sessions.
pub type Seconds = u64;

/// The only reader of the wall clock.
fn system_time() -> std::time::SystemTime {
    #[expect(
        clippy::disallowed_methods,
        reason = "the shell reads the clock; pure code receives the time"
    )]
    std::time::SystemTime::now()
}

pub(crate) fn now() -> Seconds {
    system_time().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The current time in whole milliseconds, for people.
pub(crate) fn wall_clock() -> protocol::Timestamp {
    let now = protocol::Timestamp::from(system_time());
    protocol::Timestamp::from_timestamp_millis(now.timestamp_millis()).unwrap_or(now)
}

/// Milliseconds since 1970 as the API writes times.
pub(crate) fn rfc3339(millis: history::Millis) -> String {
    let time = protocol::Timestamp::from_timestamp_millis(millis).unwrap_or_default();
    time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

/// One thread, and two more while the disk is used: the files of the app take one of them at most, and delay no write of a
/// session.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_keep_alive(std::time::Duration::from_secs(1))
        .build()
}
