//! Packages of a tenant.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::Confirm;

#[derive(Debug, Subcommand)]
pub enum PackagesCommand {
    /// list the packages of a tenant, the latest first
    List,
    /// upload a package: a .cial file with workflows and their programs
    Upload(UploadPackage),
    /// delete a package with its workflows
    Delete(DeletePackage),
}

#[derive(Debug, Args)]
pub struct UploadPackage {
    /// file to upload, like acme-etl-1.2.0.cial
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub struct DeletePackage {
    /// name of the package
    pub name: String,
    /// version of the package
    pub version: String,
    #[command(flatten)]
    pub confirm: Confirm,
}
