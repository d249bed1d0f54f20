//! `cial` as a process against scripted servers. What it prints is in golden files: `snapshots/`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod backups;
mod completion;
mod configuration;
mod connection;
mod destroying;
mod exec;
mod executions;
mod following;
mod image_uploads;
mod manifest;
mod models;
mod opening;
mod output;
mod packages;
mod refusals;
mod requests;
mod signing_in;
mod support;
mod tls;
mod transfers;
mod triggers;
mod waiting;
