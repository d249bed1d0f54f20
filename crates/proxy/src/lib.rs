//! One HTTP/1.1 request in, one out: strict framing, streaming both ways, tunnels, drain. No policy; knows no tenant.
//!
//! A binary brings a [`Policy`]: who is asked for what ([`Policy::decide`]), and what an error looks like
//! ([`Policy::fault`]). While a request is under way its [`Exchange`] is held; it is dropped after the last byte
//! of the answer's body, or when the tunnel ends, so whatever must be known to be busy lives inside it.
//!
//! One thread, one [`serve()`]: nothing is shared between threads, and every door may be opened once a thread.

mod answer;
mod ask;
mod body;
mod buffers;
mod chunks;
mod connection;
mod exchange;
mod fault;
mod fields;
mod frames;
mod framing;
mod head;
mod headers;
mod hop;
mod live;
mod policy;
mod pool;
mod pump;
mod scan;
mod serve;
mod settings;
mod step;
mod stream;
mod sweep;
mod tally;
mod thread;
mod tunnel;
mod upgrade;
mod wait;
mod way;
mod write;

pub use answer::Answer;
pub use ask::{Question, Reply, ask};
pub use fault::{Fault, Whose};
pub use head::{AnswerHead, Header, RequestHead, Version};
pub use headers::Headers;
pub use policy::{Asked, Decision, Exchange, Later, Peer, Policy, Verdict, Wait};
pub use serve::{bind, serve};
pub use settings::{HeadLimit, Settings};
pub use stream::{Address, Door, Upstream};
pub use tally::Tally;
