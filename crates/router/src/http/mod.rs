//! Handles requests: finds the tenant, obtains its lease, forwards, or answers in the router's own words.

mod address_text;
mod classify;
mod cookies;
pub(crate) mod exchange;
pub(crate) mod host;
pub(crate) mod identity;
pub(crate) mod policy;
pub(crate) mod rate_limit;
pub(crate) mod request_id;
pub(crate) mod responses;
mod retry;
mod waiting_page;
pub(crate) mod wake_progress;
pub(crate) mod worker;
