//! The orchestrator's promises, one file each, on the real engine and on the one in memory.
#![cfg(test)]

mod conformance;
mod dozing;
mod engine;
mod keeping;
mod networks;
mod process;
mod race;
mod recovery;
mod settings;
mod sleeping;
mod support;
mod waking;
mod wire;
