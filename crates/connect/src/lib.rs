//! Shared by every caller of another process: connecting to a unix socket whose directory the
//! other party may write to, and the difference between its failure and this process's own.

mod shortage;
mod unix_socket;

pub use shortage::is_local_shortage;
pub use unix_socket::{SocketFile, connect_unix};
