//! The model of the installation.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::{Confirm, NamedTenant};

#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// show the model that replies in the chat of apps that say so; no command shows its key
    Show,
    /// set the model, or change what the flags name
    Set(SetModelArgs),
    /// end the replies of the model
    Unset(UnsetModel),
    /// show what a tenant used of the model
    Usage(NamedTenant),
}

#[derive(Debug, Args)]
pub struct SetModelArgs {
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url,
        help = "address of an endpoint of the OpenAI API, like https://api.example.com/v1")]
    pub url: Option<String>,
    /// name of the model at the endpoint
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// file with the key of the endpoint; - for standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "no_key")]
    pub key_file: Option<PathBuf>,
    /// send no key, and forget the one that is set
    #[arg(long)]
    pub no_key: bool,
    /// file with the text that precedes every conversation; an empty one for none
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub system_prompt_file: Option<PathBuf>,
    /// longest reply in tokens; 0: as long as the endpoint allows
    #[arg(long, value_name = "NUMBER")]
    pub max_tokens: Option<u32>,
    /// requests of each tenant in a minute
    #[arg(long, value_name = "NUMBER")]
    pub requests_per_minute: Option<u32>,
    /// tokens of each tenant on a day of UTC
    #[arg(long, value_name = "NUMBER")]
    pub tokens_per_day: Option<u64>,
}

#[derive(Debug, Args)]
pub struct UnsetModel {
    #[command(flatten)]
    pub confirm: Confirm,
}
