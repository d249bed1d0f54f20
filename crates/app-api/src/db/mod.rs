//! All SQL, one file per table: `&mut Conn` in, `QueryResult` out, so callers choose the transaction.

pub mod api_key;
pub mod change_listener;
mod columns;
pub mod connect;
pub mod creation;
pub mod deleted_tenants;
pub mod idempotency;
pub mod installation;
mod query_deadline;
pub mod reset_link;
pub mod schema;
pub mod session;
pub mod sso_grant;
pub mod tenant;
pub mod user;

pub use connect::{Database, Pooled};
pub type Conn = diesel_async::AsyncPgConnection;
