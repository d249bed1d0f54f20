//! All SQL, one file a table: `&mut Conn` in, `QueryResult` out, so callers choose the transaction.

pub mod connect;
pub mod creation;
pub mod departed;
pub mod hints;
pub mod idempotency;
pub mod installation;
pub mod reset_link;
pub mod schema;
pub mod session;
pub mod tenant;
pub mod user;
mod word;

pub use connect::{Database, Pooled};
pub type Conn = diesel_async::AsyncPgConnection;
