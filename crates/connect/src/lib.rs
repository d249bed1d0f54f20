//! Shared by every caller of another process: connecting to a unix socket whose directory the
//! other party may write to, the difference between its failure and this process's own, and the
//! error of a process that may open too few descriptors to serve.

mod descriptors;
mod shortage;
mod unix_socket;

pub use descriptors::TooFewDescriptors;
pub use shortage::is_local_shortage;
pub use unix_socket::{SocketFile, connect_unix};
