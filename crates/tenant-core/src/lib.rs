//! The trusted half of a tenant: who is signed in (`back`), and the core's own pages (`front`).
//!
//! Both listen on unix sockets in a directory that only `cial` may enter, so whatever the edge says of a
//! request is believed here: its forwarded scheme, and who is signed in.

pub mod back;
pub mod busy;
pub mod front;
pub mod ledger;
pub mod store;
pub mod token;

/// Seconds since 1970, as tokens and sessions count them.
pub type Seconds = u64;

/// The one look at the wall's clock.
fn clock() -> std::time::SystemTime {
    #[expect(clippy::disallowed_methods, reason = "the shell reads the clock; all else is told")]
    std::time::SystemTime::now()
}

pub(crate) fn now() -> Seconds {
    clock().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// To the millisecond: as precise as people are told.
pub(crate) fn wall() -> protocol::Timestamp {
    let now = protocol::Timestamp::from(clock());
    protocol::Timestamp::from_timestamp_millis(now.timestamp_millis()).unwrap_or(now)
}

/// One thread, and a second one only while something is written to disk.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .thread_keep_alive(std::time::Duration::from_secs(1))
        .build()
}
