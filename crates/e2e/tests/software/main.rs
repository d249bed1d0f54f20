//! Software that nobody here wrote runs as tenants: the examples, installed from Debian's packages and PyPI, with the
//! commands that docs/guides show.
//!
//! `cargo xtask test software` brings an installation up, runs these tests one after the other, and removes it.

mod django;
mod example;
mod jupyterlab;
mod static_site;
