//! The command line: nouns, verbs, flags. The reference and the man pages are made from these types.

mod apps;
mod backups;
mod manifest;
mod models;
mod people;
mod registries;
mod tenants;
mod tools;
mod variables;
mod work;

pub(crate) use tenants::parse_duration;

use std::error::Error;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;

pub use self::apps::{
    AbortRollout, AppArg, AppsCommand, CreateApp, CreateRelease, DeleteApp, ReleaseCommand,
    RolloutCommand, StartRollout,
};
pub use self::backups::{BackupsCommand, CreateBackup, DeleteBackup, ListBackups, RestoreBackup};
pub use self::manifest::{InitArgs, ManifestCommand};
pub use models::{ModelsCommand, SetModelArgs, UnsetModel};
pub use people::{
    AuditCommand, AuditFilter, CreateInvitation, CreateKey, CreateWebhook, ExportAudit,
    ExportFormat, InvitationsCommand, KeysCommand, ListAudit, ListKeys, MailsCommand,
    MembersCommand, SessionsCommand, UsersCommand, WebhooksCommand,
};
pub use registries::{DeleteRegistry, RegistriesCommand, SetRegistry};
pub use tenants::{
    ChangeState, Confirm, CreateTenant, DeleteTenant, ExecArgs, ExportTenant, GetTenant,
    ImportTenant, ListTenants, LogsArgs, MigrateTenants, NamedTenant, OpenTenant, SetRelease,
    SetTenant, TenantArg, TenantsCommand, WaitArgs, WaitFor, WaitOptions,
};
pub use tools::{
    ApiArgs, AuthCommand, CompletionArgs, ConfigCommand, LoginArgs, LogoutArgs, ManArgs, Method,
    OptionalProfileArg, ProfileArg, ProfileCommand, Shell,
};

pub use variables::{
    AppEnvCommand, AppSecretsCommand, EnvCommand, RestartFollowers, RestartOptions, SecretsCommand,
    SetAppEnv, SetAppSecret, SetEnv, SetSecret, UnsetAppVariable, UnsetVariable,
};

pub use work::{
    AddPackageKey, CancelExecution, CreateTrigger, DeletePackage, DeletePackageKey, DeleteTrigger,
    ExecutionArg, ExecutionsCommand, PackageKeysCommand, PackagesCommand, RunWorkflow, SignPackage,
    TriggersCommand, UploadPackage, WorkflowsCommand,
};

use crate::complete;
use crate::help;

/// Parses a flag with a type of the protocol; the help lists the words of `values` in this order.
fn words_of<T>(
    values: impl IntoIterator<Item = T>,
    as_str: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err: Into<Box<dyn Error + Send + Sync>>> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(values.into_iter().map(as_str)).try_map(|text| text.parse())
}

/// Cial's command line: tenants, keys, people and audit of an installation.
#[derive(Debug, Parser)]
#[command(
    name = "cial",
    version,
    about = "work with tenants, keys, people and the audit of a Cial installation",
    after_help = help::FOOTER,
    max_term_width = 100,
    propagate_version = false
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help = "address of the admin API, like https://cial.example.com"
    )]
    pub server: Option<String>,
    /// API key: env:VARIABLE, file:PATH, or the key itself
    #[arg(long, global = true, value_name = "KEY")]
    pub api_key: Option<String>,
    /// profile of the configuration file
    #[arg(long, global = true, value_name = "NAME", add = ArgValueCompleter::new(complete::profiles))]
    pub profile: Option<String>,
    /// tenant of commands that belong to one; default: the key's tenant
    #[arg(long, global = true, value_name = "SLUG", add = ArgValueCompleter::new(complete::tenants))]
    pub tenant: Option<String>,
    /// table, wide, json, yaml or name; default: a table, tab-separated in a pipe
    #[arg(long, short, global = true, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<Format>,
    /// like -o json; --json=slug,state prints only these fields of the objects
    #[arg(
        long,
        global = true,
        value_name = "FIELDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        conflicts_with = "output"
    )]
    pub json: Option<String>,
    /// columns to show, separated by commas, like slug,state
    #[arg(long, global = true, value_name = "NAMES", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// print names or ids only, and no progress
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// when to use colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorWhen,
}

/// A format of data on standard output; `cial help formatting` explains them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// list, create, start, stop and inspect tenants
    #[command(visible_alias = "tenant", args_conflicts_with_subcommands = true)]
    Tenants {
        #[command(subcommand)]
        command: Option<TenantsCommand>,
    },
    /// list, request, restore and delete backups of tenants
    #[command(visible_alias = "backup", args_conflicts_with_subcommands = true)]
    Backups {
        #[command(subcommand)]
        command: Option<BackupsCommand>,
    },
    /// create, list and delete apps, and their releases
    #[command(visible_alias = "app", args_conflicts_with_subcommands = true)]
    Apps {
        #[command(subcommand)]
        command: Option<AppsCommand>,
    },
    /// accounts with which images are pulled from their registries
    #[command(visible_alias = "registry", args_conflicts_with_subcommands = true)]
    Registries {
        #[command(subcommand)]
        command: Option<RegistriesCommand>,
    },
    /// upload, sign, list and delete the packages of a tenant
    #[command(visible_alias = "package", args_conflicts_with_subcommands = true)]
    Packages {
        #[command(subcommand)]
        command: Option<PackagesCommand>,
    },
    /// list the workflows of a tenant, and run them
    #[command(visible_alias = "workflow", args_conflicts_with_subcommands = true)]
    Workflows {
        #[command(subcommand)]
        command: Option<WorkflowsCommand>,
    },
    /// list, inspect and cancel executions of workflows
    #[command(visible_alias = "execution", args_conflicts_with_subcommands = true)]
    Executions {
        #[command(subcommand)]
        command: Option<ExecutionsCommand>,
    },
    /// run workflows by time, or by a call
    #[command(visible_alias = "trigger", args_conflicts_with_subcommands = true)]
    Triggers {
        #[command(subcommand)]
        command: Option<TriggersCommand>,
    },
    /// create, list and revoke API keys
    #[command(visible_alias = "key", aliases = ["tokens", "token"], args_conflicts_with_subcommands = true)]
    Keys {
        #[command(subcommand)]
        command: Option<KeysCommand>,
    },
    /// list and end sessions of the signed-in person
    #[command(visible_alias = "session", args_conflicts_with_subcommands = true)]
    Sessions {
        #[command(subcommand)]
        command: Option<SessionsCommand>,
    },
    /// list the people of the installation, and change their roles
    #[command(visible_alias = "user", args_conflicts_with_subcommands = true)]
    Users {
        #[command(subcommand)]
        command: Option<UsersCommand>,
    },
    /// list and change the members of a tenant
    #[command(visible_alias = "member", args_conflicts_with_subcommands = true)]
    Members {
        #[command(subcommand)]
        command: Option<MembersCommand>,
    },
    /// invite people to the installation or to a tenant
    #[command(visible_alias = "invitation", args_conflicts_with_subcommands = true)]
    Invitations {
        #[command(subcommand)]
        command: Option<InvitationsCommand>,
    },
    /// list the mails that wait to be sent
    #[command(visible_alias = "mail", args_conflicts_with_subcommands = true)]
    Mails {
        #[command(subcommand)]
        command: Option<MailsCommand>,
    },
    /// set the model that replies in the chat of tenants, and show its use
    #[command(visible_alias = "model", args_conflicts_with_subcommands = true)]
    Models {
        #[command(subcommand)]
        command: Option<ModelsCommand>,
    },
    /// send events to an address of yours, and follow the deliveries
    #[command(visible_alias = "webhook", args_conflicts_with_subcommands = true)]
    Webhooks {
        #[command(subcommand)]
        command: Option<WebhooksCommand>,
    },
    /// read and export the audit
    #[command(args_conflicts_with_subcommands = true)]
    Audit {
        #[command(flatten)]
        list: ListAudit,
        #[command(subcommand)]
        command: Option<AuditCommand>,
    },
    /// write a commented manifest for an image's program
    Init(InitArgs),
    /// check a manifest, and print the schema of manifests
    Manifest {
        #[command(subcommand)]
        command: ManifestCommand,
    },
    /// list, choose and change profiles
    #[command(args_conflicts_with_subcommands = true)]
    Profile {
        #[command(subcommand)]
        command: Option<ProfileCommand>,
    },
    /// show the settings in effect
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// sign in to a server in the browser, and store the key in a profile
    Login(LoginArgs),
    /// revoke the key of a profile, and remove it from this machine
    Logout(LogoutArgs),
    /// show who the key belongs to
    Whoami,
    /// open a tenant in the browser, signed in: cial tenants open
    Open(OpenTenant),
    /// login, logout and whoami, for those who know them from other command lines
    #[command(hide = true)]
    Auth {
        #[command(subcommand)]
        command: AuthCommand,
    },
    /// check configuration, connection, clock, versions and key
    Doctor,
    /// send one request to the API and print the response
    Api(ApiArgs),
    /// print the completion script of a shell
    Completion(CompletionArgs),
    /// write the man pages into a folder
    Man(ManArgs),
    /// show the versions of this program and of the server
    Version,

    /// variables that cial reads
    #[command(name = "environment", hide = true, about = help::ENVIRONMENT, help_template = "{about}\n")]
    HelpEnvironment,
    /// formats of the output
    #[command(name = "formatting", hide = true, about = help::FORMATTING, help_template = "{about}\n")]
    HelpFormatting,
    /// exit codes
    #[command(name = "exit-codes", hide = true, about = help::EXIT_CODES, help_template = "{about}\n")]
    HelpExitCodes,
    /// profiles and keys
    #[command(name = "profiles", hide = true, about = help::PROFILES, help_template = "{about}\n")]
    HelpProfiles,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// One line of at most 80 columns, in lower case, without a full stop.
    #[test]
    fn every_help_line_follows_the_style() {
        fn walk(command: &clap::Command) {
            let flags = command.get_arguments().filter(|arg| !arg.is_hide_set());
            let texts = flags.filter_map(|arg| arg.get_help()).map(ToString::to_string);
            let about = command.get_about().filter(|_| !command.is_hide_set());
            for text in texts.chain(about.map(ToString::to_string)) {
                let starts_low = !text.starts_with(char::is_uppercase) || text.starts_with("API");
                let is_short = text.chars().count() <= 80 + 6 && !text.contains('\n');
                assert!(starts_low && is_short && !text.ends_with('.'), "{text:?}");
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }
}
