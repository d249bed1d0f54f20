//! The routes: a replica of app-api's feed in memory, read without locks, and a copy on disk. An entry of the table holds
//! its tenant's cached lease, which the serving threads read and the module `leases` writes.

pub(crate) mod cache;
pub(crate) mod cached_lease;
pub(crate) mod keys;
pub(crate) mod response_reports;
pub(crate) mod store;
pub(crate) mod table;
