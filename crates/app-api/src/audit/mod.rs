//! The audit log: every change writes an entry in its own transaction. Entries form a hash chain; the table refuses
//! updates and deletes. [`entry`] is what a change writes, [`chain`] is the pure part, `db::audit_log` the SQL.

pub mod chain;
pub mod entry;
pub mod export;
pub mod mask;
pub mod origin;
pub mod query;
pub mod verify;

pub use entry::{Action, Actor, Entry, Resource};
