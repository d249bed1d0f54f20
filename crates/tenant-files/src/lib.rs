//! The file server of a tenant: performs requests of core-back on the volume of the tenant's own files, as the user
//! `agent` who owns them.
//!
//! core-back is another user and holds no capability, so it cannot open these files, and what it made there would not
//! belong to the app. The server opens a file under its own user and hands the descriptor over; the kernel decides by the
//! modes that the app gave its files. No path leaves the volume and no symbolic link is followed.

mod folder;
mod serve;
mod uploads;

pub use serve::serve;
