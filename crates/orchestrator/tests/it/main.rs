//! The contract of the orchestrator, one file per topic, on the real engine and on the one in
//! memory.
#![cfg(test)]

mod conformance;
mod connections;
mod disk_full;
mod disk_limits;
mod engine;
mod exec;
mod firewall;
mod loading;
mod networks;
mod operations;
mod power_cut;
mod process;
mod project_quotas;
mod pulling;
mod quota;
mod race;
mod reboot;
mod recovery;
mod revoking;
mod settings;
mod sleep_on_docker;
mod smoke_start;
mod support;
mod suspending;
mod tasks;
mod volumes;
mod waking;
mod wire;
mod wrapping;
