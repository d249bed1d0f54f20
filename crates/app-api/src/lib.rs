//! The control plane: accounts, tenants, admin pages, SSO, reconciler. Start reading at [`routes`] and
//! [`reconcile::plan`].
//!
//! [`tenant`] is the ground: the domain types, pure. [`db`], [`reconcile`], [`api`] and [`pages`] stand on it.

pub mod access;
pub mod accounts;
pub mod api;
pub mod api_keys;
pub mod app;
pub mod apps;
pub mod audit;
pub mod auth;
pub mod backups;
pub mod bootstrap_key;
pub mod cli_login;
pub mod clock;
pub mod command_line;
pub mod database_proxy;
pub mod database_setup;
pub mod db;
pub mod descriptors;
pub mod dev_login;
pub mod events;
pub mod http;
pub mod internal;
pub mod jitter;
pub mod mail;
pub mod model;
pub mod openapi;
pub mod orchestrator;
pub mod outbound;
pub mod pages;
pub mod passkeys;
pub mod people;
pub mod pulled_images;
pub mod reconcile;
pub mod registries;
pub mod rollout;
pub mod route;
pub mod route_feed;
pub mod routes;
pub mod second_factor;
pub mod sessions;
pub mod settings;
pub mod sleep_status;
pub mod start;
pub mod summaries;
pub mod tenant;
pub mod tenant_actions;
pub mod tenant_databases;
pub mod tenant_places;
pub mod transfer;
pub mod validation;
pub mod variables;
pub mod views;
pub mod webhooks;
pub mod work;
