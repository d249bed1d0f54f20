//! All SQL, one file per table: `&mut Conn` in, `QueryResult` out, so callers choose the transaction.

pub mod api_key;
pub mod app;
pub mod audit_log;
pub mod backup;
pub mod change_listener;
pub mod cli_login;
mod columns;
pub mod connect;
pub mod creation;
pub mod database_size;
pub mod deleted_tenants;
pub mod event;
pub mod idempotency;
pub mod installation;
pub mod invitation;
pub mod mail;
pub mod membership;
pub mod model;
pub mod open_work;
pub mod package_key;
pub mod package_signature;
pub mod passkey;
mod query_deadline;
mod quote;
pub mod registry;
pub mod reset_link;
pub mod roles;
pub mod rollout;
pub mod schema;
pub mod sealed_text;
pub mod second_factor;
pub mod session;
pub mod sso_grant;
pub mod summary;
pub mod tenant;
pub mod tenant_database;
pub mod tenant_executions;
pub mod tenant_import;
pub mod tenant_packages;
pub mod tenant_restore;
mod tenant_rows;
pub mod tenant_sessions;
pub mod tenant_workflows;
pub mod trigger;
pub mod user;
pub mod webhook;

pub use connect::{Database, Pooled};
/// For the callers that choose the transaction: `conn.transaction(async |conn| …)`.
pub use diesel::result::Error as QueryError;
pub use diesel::{OptionalExtension, QueryResult};
pub use diesel_async::AsyncConnection as Transaction;
pub type Conn = diesel_async::AsyncPgConnection;

/// A failure of Postgres that is no fault of the request or of its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseError {
    /// No reply in time: the connection ended, or a timeout of the server cancelled the statement.
    Unavailable,
    /// The disk of the server has no room for the change.
    DiskFull,
}

impl DatabaseError {
    /// Finds the failure in the cause of an error response; `None` for any other cause.
    pub fn find(error: &anyhow::Error) -> Option<Self> {
        use diesel::result::{DatabaseErrorKind, Error};

        match error.downcast_ref::<Error>() {
            // The deadline of a query ends its connection. Errors without a code of Postgres are of this kind, too.
            Some(Error::DatabaseError(
                DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::UnableToSendCommand,
                _,
            )) => Some(Self::Unavailable),
            Some(Error::DatabaseError(DatabaseErrorKind::Unknown, info)) => {
                if TIMEOUT_MESSAGES.contains(&info.message()) {
                    Some(Self::Unavailable)
                } else if info.message().contains(NO_SPACE_MESSAGE) {
                    Some(Self::DiskFull)
                } else {
                    None
                }
            }
            _ => None,
        }
    }
}

/// Whether a row that the statement refers to is gone, or a row that it deletes is referred to.
pub fn is_foreign_key_violation(error: &diesel::result::Error) -> bool {
    use diesel::result::{DatabaseErrorKind, Error};

    matches!(error, Error::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, _))
}

/// Diesel passes no error code on. In another language such a failure counts as an internal error.
const TIMEOUT_MESSAGES: [&str; 2] =
    ["canceling statement due to statement timeout", "canceling statement due to lock timeout"];
const NO_SPACE_MESSAGE: &str = "No space left on device";
