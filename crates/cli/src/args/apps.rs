//! Apps and their releases.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::Confirm;

#[derive(Debug, Subcommand)]
pub enum AppsCommand {
    /// list apps
    List,
    /// create an app without releases
    Create(CreateApp),
    /// show an app
    Get(AppArg),
    /// delete an app that no tenant follows, with its releases
    Delete(DeleteApp),
    /// create and list the releases of an app
    Release {
        #[command(subcommand)]
        command: ReleaseCommand,
    },
}

#[derive(Debug, Args)]
pub struct CreateApp {
    /// short name: 2 to 40 of a-z, 0-9 and -
    #[arg(value_name = "APP")]
    pub slug: String,
    /// name for people; default: the short name
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
pub struct AppArg {
    /// short name of the app
    #[arg(value_name = "APP")]
    pub slug: String,
}

#[derive(Debug, Args)]
pub struct DeleteApp {
    /// short name of the app
    #[arg(value_name = "APP")]
    pub slug: String,
    #[command(flatten)]
    pub confirm: Confirm,
}

#[derive(Debug, Subcommand)]
pub enum ReleaseCommand {
    /// list the releases of an app, the latest first
    List(AppArg),
    /// create a release of an image that the engine has
    Create(CreateRelease),
}

#[derive(Debug, Args)]
pub struct CreateRelease {
    /// short name of the app
    #[arg(value_name = "APP")]
    pub slug: String,
    /// name of an image on the engine
    #[arg(long, value_name = "IMAGE")]
    pub image: String,
    /// manifest of the release; - for standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub manifest: Option<PathBuf>,
}
