//! Knows the routes: a replica of app-api's feed in memory, read without locks, and a copy on disk.

pub(crate) mod cache;
pub(crate) mod keys;
pub(crate) mod store;
pub(crate) mod table;
