//! The tenant's own app: pages (`front`), and facts that only its own pages may request (`back`).
//!
//! A user of the tenant may change this half, so the core never relies on it.

pub mod back;
pub mod front;

/// One thread is enough for an app that waits.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
