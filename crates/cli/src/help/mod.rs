//! Texts of `cial help …`.

pub(crate) const FOOTER: &str = "\
Help topics: cial help environment | formatting | exit-codes | profiles

First steps:
  cial login --server https://cial.example.com
  cial tenants create acme
  cial tenants logs acme --follow";

pub(crate) const ENVIRONMENT: &str = include_str!("environment.txt");
pub(crate) const FORMATTING: &str = include_str!("formatting.txt");
pub(crate) const EXIT_CODES: &str = include_str!("exit-codes.txt");
pub(crate) const PROFILES: &str = include_str!("profiles.txt");

/// The topics in the order of the reference: name, title, text.
pub(crate) const TOPICS: &[(&str, &str, &str)] = &[
    ("environment", "Environment", ENVIRONMENT),
    ("formatting", "Formatting", FORMATTING),
    ("exit-codes", "Exit codes", EXIT_CODES),
    ("profiles", "Profiles and keys", PROFILES),
];
