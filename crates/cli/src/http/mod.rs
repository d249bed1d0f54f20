//! Calls of the admin API: one request, one response, errors in words.

mod client;
mod failure;
mod request;
mod response;
mod tls;
mod websocket;

pub(crate) use client::{Client, Server};
pub(crate) use request::{Method, Request, segment};
pub(crate) use response::{NOTABLE_SKEW_SECONDS, Response, describe_skew};
pub(crate) use websocket::{Broken, Socket};
