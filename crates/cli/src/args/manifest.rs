//! The manifest of an app, on this machine.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

#[derive(Debug, Args)]
pub struct InitArgs {
    /// the file to write
    #[arg(default_value = manifest::FILE_NAME, value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// replace a file that exists
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Subcommand)]
pub enum ManifestCommand {
    /// name all faults of a manifest
    Check {
        /// the manifest; - for standard input
        #[arg(default_value = manifest::FILE_NAME, value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// print the JSON Schema of manifests, for editors
    Schema,
}
