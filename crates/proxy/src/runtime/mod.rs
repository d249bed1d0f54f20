//! One serving thread: listening sockets, its shared state, timers, buffers and idle upstream connections.

pub(crate) mod buffers;
pub(crate) mod pool;
pub(crate) mod serve;
pub(crate) mod stream;
pub(crate) mod timers;
pub(crate) mod worker;
