//! HTTP for the services inside a tenant: sockets inherited from PID 1, a small server, its responses, a bounded client.
//!
//! Bodies are held in memory and no framework is used: each of these processes takes about a megabyte, once a tenant.

pub mod body;
pub mod echo;
pub mod fetch;
pub mod gauges;
pub mod inherited;
pub mod page;
pub mod request_body;
pub mod request_context;
pub mod response;
pub mod same_origin;
pub mod serve;
pub mod start;
pub mod timed_listener;
pub mod user;

pub use request_body::RequestBody;
pub use request_context::RequestContext;
pub use response::Response;
pub use serve::{BoundedListener, Drain, serve};
pub use start::{TENANT, start};
pub use timed_listener::TimedListener;
pub use user::{User, site_of};

/// A request whose body the handler may leave unread.
pub type Request = hyper::Request<RequestBody>;
