//! The commands: each turns its arguments into calls, and what the API returned into output.

mod api;
mod apps;
mod audit;
mod backups;
mod browser;
mod browser_login;
#[cfg(test)]
mod columns;
mod confirm;
mod doctor;
mod executions;
mod help;
mod image_upload;
mod keys;
mod login;
mod mails;
mod manifest;
mod models;
mod packages;
mod pages;
mod people;
mod profile;
mod pull_progress;
mod registries;
mod rollouts;
mod tenants;
mod transfer;
mod triggers;
mod variables;
mod version;
mod webhooks;
mod whoami;

use crate::args::{AuthCommand, Command};
use crate::context::Context;
use crate::error::CliError;

pub(crate) fn run(command: Command, context: &Context<'_>) -> Result<(), CliError> {
    let outcome = dispatch(command, context);
    context.warn_about_version();
    outcome
}

fn dispatch(command: Command, context: &Context<'_>) -> Result<(), CliError> {
    match command {
        Command::Tenants { command } => tenants::run(command, context),
        Command::Backups { command } => backups::run(command, context),
        Command::Apps { command } => apps::run(command, context),
        Command::Registries { command } => registries::run(command, context),
        Command::Packages { command } => packages::run(command, context),
        Command::Workflows { command } => executions::workflows(command, context),
        Command::Executions { command } => executions::executions(command, context),
        Command::Triggers { command } => triggers::run(command, context),
        Command::Keys { command } => keys::run(command, context),
        Command::Sessions { command } => people::sessions(command, context),
        Command::Users { command } => people::users(command, context),
        Command::Members { command } => people::members(command, context),
        Command::Invitations { command } => people::invitations(command, context),
        Command::Mails { command } => mails::run(command, context),
        Command::Models { command } => models::run(command, context),
        Command::Webhooks { command } => webhooks::run(command, context),
        Command::Audit { list, command } => audit::run(list, command, context),
        Command::Init(args) => manifest::init(&args, context),
        Command::Manifest { command } => manifest::run(command, context),
        Command::Profile { command } => profile::run(command, context),
        Command::Config { command } => profile::show_config(&command, context),
        Command::Login(args) | Command::Auth { command: AuthCommand::Login(args) } => {
            login::login(&args, context)
        }
        Command::Logout(args) | Command::Auth { command: AuthCommand::Logout(args) } => {
            login::logout(&args, context)
        }
        Command::Whoami | Command::Auth { command: AuthCommand::Status } => whoami::run(context),
        Command::Open(args) => tenants::open(&args, context),
        Command::Doctor => doctor::run(context),
        Command::Api(args) => api::run(&args, context),
        Command::Completion(args) => help::completion(args.shell, context),
        Command::Man(args) => help::man(&args.dir, context),
        Command::Version => version::run(context),
        Command::HelpEnvironment => help::topic("environment", context),
        Command::HelpFormatting => help::topic("formatting", context),
        Command::HelpExitCodes => help::topic("exit-codes", context),
        Command::HelpProfiles => help::topic("profiles", context),
    }
}
