//! `cial tenants …`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use protocol::State;

use super::{EnvCommand, SecretsCommand, words_of};
use crate::complete;

#[derive(Debug, Subcommand)]
pub enum TenantsCommand {
    /// list tenants
    List(ListTenants),
    /// create a tenant and wait until it runs
    Create(CreateTenant),
    /// show a tenant
    Get(GetTenant),
    /// change a tenant
    Set(SetTenant),
    /// start a tenant, or wake it
    Start(ChangeState),
    /// stop a tenant; its data stays
    Stop(ChangeState),
    /// stop and start a tenant
    Restart(ChangeState),
    /// delete a tenant with its data
    Delete(DeleteTenant),
    /// write a tenant that rests into a file: its volumes, limits and policy
    Export(ExportTenant),
    /// create a tenant from the file of an export; it stays stopped
    Import(ImportTenant),
    /// move a tenant to another release of its app
    SetRelease(SetRelease),
    /// let rollouts leave a tenant alone
    Pin(NamedTenant),
    /// let rollouts move a tenant again
    Unpin(NamedTenant),
    /// variables of a tenant's program
    Env {
        #[command(subcommand)]
        command: EnvCommand,
    },
    /// secrets of a tenant's program
    Secrets {
        #[command(subcommand)]
        command: SecretsCommand,
    },
    /// show how far the databases of tenants are migrated
    Migrate(MigrateTenants),
    /// print the log of a tenant
    Logs(LogsArgs),
    /// run a command, or a shell, in a tenant
    Exec(ExecArgs),
    /// open a tenant in the browser, signed in
    Open(OpenTenant),
    /// wait until a tenant is in a state
    Wait(WaitArgs),
}

#[derive(Debug, Default, Args)]
pub struct ListTenants {
    /// only tenants in this state
    #[arg(long, value_name = "STATE", value_parser = words_of(State::ALL, State::as_str))]
    pub state: Option<State>,
    /// only tenants whose slug or name contains this text
    #[arg(long = "query", value_name = "TEXT")]
    pub query: Option<String>,
    /// at most this many tenants
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

#[derive(Debug, Args)]
pub struct CreateTenant {
    /// label in front of the domain: 2 to 40 of a-z, 0-9 and -
    pub slug: String,
    /// name for people; default: the slug
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
    /// app that the tenant runs; default: the built-in one
    #[arg(long, value_name = "APP")]
    pub app: Option<String>,
    /// release of the app, like v2; default: the latest
    #[arg(long, value_name = "RELEASE", requires = "app")]
    pub release: Option<String>,
    #[command(flatten)]
    pub wait: WaitOptions,
}

#[derive(Debug, Args)]
pub struct ExportTenant {
    /// slug of the tenant
    #[arg(value_name = "SLUG", add = ArgValueCompleter::new(complete::tenants))]
    pub slug: String,
    /// file to write, which must not exist; default: the standard output
    #[arg(long, short = 'f', value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// stop a tenant that runs for the time of the export, and start it again
    #[arg(long)]
    pub stop: bool,
    /// without the tenant's schema, with its tables, packages and workflows
    #[arg(long)]
    pub without_database: bool,
    /// longest wait for the stop, like 90s or 5m
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
pub struct ImportTenant {
    /// file of an export; - is the standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// slug of the new tenant
    #[arg(long = "as", value_name = "SLUG")]
    pub slug: String,
}

#[derive(Debug, Args)]
pub struct SetRelease {
    /// slug of the tenant
    #[arg(value_name = "SLUG", add = ArgValueCompleter::new(complete::tenants))]
    pub slug: String,
    /// release of the tenant's app, like v2
    #[arg(value_name = "RELEASE")]
    pub release: String,
    #[command(flatten)]
    pub wait: WaitOptions,
}

#[derive(Debug, Args)]
pub struct SetTenant {
    #[command(flatten)]
    pub tenant: TenantArg,
    /// name for people
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
    /// serve signed-in members only: true or false
    #[arg(long, value_name = "BOOL")]
    pub require_sign_in: Option<bool>,
}

#[derive(Debug, Args)]
pub struct NamedTenant {
    /// slug of the tenant
    #[arg(value_name = "SLUG", add = ArgValueCompleter::new(complete::tenants))]
    pub slug: String,
}

#[derive(Debug, Args)]
pub struct MigrateTenants {
    /// show the result of each tenant; the server migrates by itself after an upgrade
    #[arg(long, required = true)]
    pub status: bool,
}

#[derive(Debug, Args)]
pub struct TenantArg {
    /// slug of the tenant; default: --tenant, else the key's tenant
    #[arg(value_name = "SLUG", add = ArgValueCompleter::new(complete::tenants))]
    pub slug: Option<String>,
}

#[derive(Debug, Args)]
pub struct GetTenant {
    #[command(flatten)]
    pub tenant: TenantArg,
    /// go on with a line for each change of its state until Ctrl-C
    #[arg(long, short)]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub struct ChangeState {
    #[command(flatten)]
    pub tenant: TenantArg,
    #[command(flatten)]
    pub wait: WaitOptions,
}

#[derive(Debug, Args)]
pub struct DeleteTenant {
    /// slug of the tenant
    #[arg(value_name = "SLUG", add = ArgValueCompleter::new(complete::tenants))]
    pub slug: String,
    #[command(flatten)]
    pub confirm: Confirm,
    #[command(flatten)]
    pub wait: WaitOptions,
}

/// Flags of commands that destroy something.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Confirm {
    /// do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// print what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Flags of commands that start work which goes on after the response.
#[derive(Clone, Copy, Debug, Args)]
pub struct WaitOptions {
    /// wait until the work is done (the default)
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// return as soon as the server accepted the request
    #[arg(long)]
    no_wait: bool,
    /// longest wait, like 90s or 5m
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
    pub timeout: Duration,
}

impl WaitOptions {
    pub fn waits(&self) -> bool {
        !self.no_wait
    }
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    #[command(flatten)]
    pub tenant: TenantArg,
    /// go on with new lines until Ctrl-C
    #[arg(long, short)]
    pub follow: bool,
    /// end after the last line (the default)
    #[arg(long, overrides_with = "follow")]
    no_follow: bool,
    /// number of last lines to begin with
    #[arg(long, short = 'n', value_name = "LINES", default_value_t = 100)]
    pub tail: u32,
    /// only lines after this: a time of RFC 3339, or an age like 10m
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// show when each line was written
    #[arg(long)]
    pub timestamps: bool,
}

#[derive(Debug, Args)]
pub struct ExecArgs {
    /// slug of the tenant
    #[arg(value_name = "SLUG", add = ArgValueCompleter::new(complete::tenants))]
    pub slug: String,
    /// give the command no terminal, also where this one is one
    #[arg(long, short = 'T')]
    pub no_tty: bool,
    /// program and arguments; default: a shell
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct OpenTenant {
    #[command(flatten)]
    pub tenant: TenantArg,
    /// print the address instead of opening a browser
    #[arg(long)]
    pub print: bool,
}

#[derive(Debug, Args)]
pub struct WaitArgs {
    #[command(flatten)]
    pub tenant: TenantArg,
    /// state to wait for
    #[arg(long = "for", value_name = "STATE", default_value = "running")]
    pub wait_for: WaitFor,
    /// longest wait, like 90s or 5m
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// The end of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WaitFor {
    Running,
    Frozen,
    Sleeping,
    Stopped,
    Deleted,
}

/// Parses a positive time with its unit: `500ms`, `90s`, `5m`, `2h`, `7d`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("must be a number with a unit of ms, s, m, h or d, like 90s".to_owned()),
    };
    let milliseconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    milliseconds
        .filter(|milliseconds| (1..=366 * 86_400_000).contains(milliseconds))
        .map(Duration::from_millis)
        .ok_or_else(|| "must be more than 0 and at most 366d".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn durations_need_a_unit_and_are_bounded() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("90s", 90_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for bad in
            ["", "5", "m", "0s", "-1s", "1.5h", "5 m", "99999999999999999999s", "9000d", "1µs"]
        {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_state_of_the_protocol_is_a_value() {
        for state in State::ALL {
            let line = ["cial", "tenants", "list", "--state", state.as_str()];
            let parsed = crate::args::Cli::try_parse_from(line).unwrap();
            let shown = format!("{parsed:?}");
            assert!(shown.contains(&format!("state: Some({state:?})")), "{shown}");
        }
    }
}
