//! The behaviour of the tenant's trusted half, over its real sockets.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod api;
mod busy;
mod chat;
mod chat_model;
mod drain;
mod files;
mod front;
mod harness;
mod health;
mod history;
mod revocation;
mod sign_in;
mod sign_out;
mod sso;
mod tokens;
