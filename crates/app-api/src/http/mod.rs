//! HTTP parts that all routes share: the server, the extractors, CSRF checks and security headers.

pub mod describe;
pub mod extract;
pub mod listen;
pub mod paging;
pub mod release;
pub mod reply;
pub mod request_body;
pub mod request_headers;
pub mod security;
pub mod upload;
