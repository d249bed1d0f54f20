//! The pages of an installation in a real browser, from the first visit on. One test: an installation has one first
//! owner.

mod first_owner;
mod hostile_app;
mod narrow_screen;
mod orchestrator_outage;
mod sleeping_tenant;
