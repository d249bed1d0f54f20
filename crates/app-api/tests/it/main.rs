//! Integration tests of the control plane, one file per promise.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod access;
mod accounts;
mod api_keys;
mod apps;
mod audit;
mod bootstrap_key;
mod cli_login;
mod connections;
mod creating;
mod database_down;
mod database_ownership;
mod database_proxy;
mod database_roles;
mod described_api;
mod dev_login;
mod disk_full;
mod errors;
mod events;
mod exec;
mod executions;
mod harness;
mod listing;
mod lock_order;
mod logs;
mod mail;
mod migrations;
mod openapi;
mod packages;
mod pages;
mod passkeys;
mod password_reset;
mod people;
mod reconciling;
mod rollouts;
mod route_feed;
mod second_factor;
mod security;
mod sessions;
mod sleep_status;
mod sso;
mod summaries;
mod tenant_databases;
mod variables;
mod webhooks;
