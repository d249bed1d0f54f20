//! Header names of our own, all lower-case as on an HTTP/1.1 wire parsed by us.

/// Every name that begins so is ours: stripped from whatever comes from outside.
pub const PREFIX: &str = "x-cial-";

/// Router → edge: proves that the request came through the router for this very tenant.
pub const ROUTE_TOKEN: &str = "x-cial-route-token";
/// Edge → router: proves that this very tenant answered. Stripped by the router.
pub const PROOF: &str = "x-cial-proof";
/// Edge → platform: `sub` of the signed-in user.
pub const USER: &str = "x-cial-user";
/// Edge → platform: e-mail of the signed-in user.
pub const EMAIL: &str = "x-cial-email";
/// On every request inside the platform and on every answer that leaves it.
pub const REQUEST_ID: &str = "x-request-id";

/// The tenant session's cookie, over plain HTTP and over HTTPS.
pub const SESSION_COOKIE: &str = "cial_session";
pub const SESSION_COOKIE_SECURE: &str = "__Host-cial_session";
