//! Variables and secrets of programs: of one tenant, and of an app for all its tenants.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use clap_complete::engine::ArgValueCompleter;

use super::{AppArg, Confirm, NamedTenant, WaitOptions};
use crate::complete;

#[derive(Debug, Subcommand)]
pub enum EnvCommand {
    /// list variables with their values
    List(NamedTenant),
    /// set a variable, from the next start on
    Set(SetEnv),
    /// delete a variable
    Unset(UnsetVariable),
}

#[derive(Debug, Subcommand)]
pub enum SecretsCommand {
    /// list the names of secrets; no command shows a value
    List(NamedTenant),
    /// set a secret to the text of standard input or of a file, from the next start on
    Set(SetSecret),
    /// delete a secret
    Unset(UnsetVariable),
}

#[derive(Debug, Args)]
pub struct SetEnv {
    /// slug of the tenant
    #[arg(value_name = "SLUG", add = ArgValueCompleter::new(complete::tenants))]
    pub slug: String,
    /// name and value of the variable
    #[arg(value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub pair: (String, String),
    #[command(flatten)]
    pub restart: RestartOptions,
}

#[derive(Debug, Args)]
pub struct SetSecret {
    /// slug of the tenant
    #[arg(value_name = "SLUG", add = ArgValueCompleter::new(complete::tenants))]
    pub slug: String,
    /// name of the variable that holds the secret
    #[arg(value_name = "NAME")]
    pub name: String,
    /// file with the value, without its last line break; - for standard input
    #[arg(long, value_name = "FILE", default_value = "-", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    #[command(flatten)]
    pub restart: RestartOptions,
}

#[derive(Debug, Args)]
pub struct UnsetVariable {
    /// slug of the tenant
    #[arg(value_name = "SLUG", add = ArgValueCompleter::new(complete::tenants))]
    pub slug: String,
    /// name of the variable
    #[arg(value_name = "NAME")]
    pub name: String,
    #[command(flatten)]
    pub confirm: Confirm,
    #[command(flatten)]
    pub restart: RestartOptions,
}

/// Flags of commands whose change takes effect at the next start.
#[derive(Debug, Args)]
pub struct RestartOptions {
    /// restart the tenant at once
    #[arg(long)]
    pub restart: bool,
    #[command(flatten)]
    pub wait: WaitOptions,
}

#[derive(Debug, Subcommand)]
pub enum AppEnvCommand {
    /// list the variables of an app with their values
    List(AppArg),
    /// set a variable of an app, from the next start of each tenant on
    Set(SetAppEnv),
    /// delete a variable of an app
    Unset(UnsetAppVariable),
}

#[derive(Debug, Subcommand)]
pub enum AppSecretsCommand {
    /// list the names of an app's secrets; no command shows a value
    List(AppArg),
    /// set a secret of an app to the text of standard input or of a file
    Set(SetAppSecret),
    /// delete a secret of an app
    Unset(UnsetAppVariable),
}

#[derive(Debug, Args)]
pub struct SetAppEnv {
    #[command(flatten)]
    pub app: AppArg,
    /// name and value of the variable
    #[arg(value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub pair: (String, String),
    #[command(flatten)]
    pub restart: RestartFollowers,
}

#[derive(Debug, Args)]
pub struct SetAppSecret {
    #[command(flatten)]
    pub app: AppArg,
    /// name of the variable that holds the secret
    #[arg(value_name = "NAME")]
    pub name: String,
    /// file with the value, without its last line break; - for standard input
    #[arg(long, value_name = "FILE", default_value = "-", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    #[command(flatten)]
    pub restart: RestartFollowers,
}

#[derive(Debug, Args)]
pub struct UnsetAppVariable {
    #[command(flatten)]
    pub app: AppArg,
    /// name of the variable
    #[arg(value_name = "NAME")]
    pub name: String,
    #[command(flatten)]
    pub confirm: Confirm,
    #[command(flatten)]
    pub restart: RestartFollowers,
}

/// Flags of commands whose change takes effect at the next start of each tenant of an app.
#[derive(Debug, Args)]
pub struct RestartFollowers {
    /// restart the app's tenants that run or are frozen, one after the other
    #[arg(long)]
    pub restart: bool,
    #[command(flatten)]
    pub wait: WaitOptions,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or_else(|| "must be NAME=VALUE".to_owned())?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}
