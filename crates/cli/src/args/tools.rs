//! Profiles, signing in, and what helps with everything else.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;

use crate::complete;

#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    /// list profiles; a star marks the default
    List,
    /// make a profile the default
    Use(ProfileArg),
    /// show a profile without its key
    Show(OptionalProfileArg),
    /// create or change a profile from --server, --api-key and --tenant
    Set(ProfileArg),
}

#[derive(Debug, Args)]
pub struct ProfileArg {
    #[arg(value_name = "PROFILE", add = ArgValueCompleter::new(complete::profiles))]
    /// name of the profile
    pub name: String,
}

#[derive(Debug, Args)]
pub struct OptionalProfileArg {
    #[arg(value_name = "PROFILE", add = ArgValueCompleter::new(complete::profiles))]
    /// name of the profile; default: the one in effect
    pub name: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// show the settings in effect
    Show {
        /// also show where each setting comes from
        #[arg(long)]
        origin: bool,
    },
}

#[derive(Debug, Args)]
pub struct LoginArgs {
    /// read the key from standard input
    #[arg(long, conflicts_with = "no_browser")]
    pub token_stdin: bool,
    /// open no browser: print an address and a code for another device
    #[arg(long)]
    pub no_browser: bool,
}

#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// leave the key valid on the server
    #[arg(long)]
    pub keep_key: bool,
}

#[derive(Debug, Subcommand)]
pub enum AuthCommand {
    /// sign in to a server in the browser, and store the key in a profile
    Login(LoginArgs),
    /// revoke the key of a profile, and remove it from this machine
    Logout(LogoutArgs),
    /// show who the key belongs to
    Status,
}

/// An HTTP method of `cial api`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

#[derive(Debug, Args)]
pub struct ApiArgs {
    /// method of the request
    #[arg(ignore_case = true)]
    pub method: Method,
    /// path of the request, like /v1/tenants
    pub path: String,
    /// body as JSON, @FILE for a file, - for standard input
    #[arg(long, short, value_name = "JSON")]
    pub data: Option<String>,
    /// also print the status and the headers of the response
    #[arg(long, short)]
    pub include: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
        }
    }
}

#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// the shell
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// folder for the pages
    #[arg(long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    pub dir: PathBuf,
}
