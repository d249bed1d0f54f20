//! Registries of images, and their accounts.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::Confirm;

#[derive(Debug, Subcommand)]
pub enum RegistriesCommand {
    /// list the registries whose images are pulled with an account
    List,
    /// set the account of a registry, with the password on standard input or in a file
    Set(SetRegistry),
    /// delete the account of a registry
    Delete(DeleteRegistry),
}

#[derive(Debug, Args)]
pub struct SetRegistry {
    /// host of the registry, like registry.example.com or 127.0.0.1:5000
    #[arg(value_name = "HOST")]
    pub host: String,
    /// name of the account
    #[arg(long, value_name = "NAME")]
    pub username: String,
    /// file with the password or token, without its last line break; - for standard input
    #[arg(long, value_name = "FILE", default_value = "-", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub struct DeleteRegistry {
    /// host of the registry
    #[arg(value_name = "HOST")]
    pub host: String,
    #[command(flatten)]
    pub confirm: Confirm,
}
