//! The control plane: accounts, tenants, admin pages, SSO, reconcile. Start reading at [`routes`] and
//! [`reconcile::plan`].

pub mod access;
pub mod accounts;
pub mod api;
pub mod app;
pub mod clock;
pub mod db;
pub mod extract;
pub mod feed;
pub mod guard;
pub mod internal;
pub mod listen;
pub mod openapi;
pub mod opening;
pub mod orchestrator;
pub mod pages;
pub mod reconcile;
pub mod routes;
pub mod sessions;
pub mod settings;
pub mod sleep;
pub mod sso;
pub mod start;
pub mod tenants;
pub mod throttle;
pub mod token;
pub mod views;
