//! Apps and their releases.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueHint};

use protocol::images::PullPolicy;

use super::{AppEnvCommand, AppSecretsCommand, Confirm, WaitOptions, parse_duration, words_of};

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
    /// variables that all tenants of an app have
    Env {
        #[command(subcommand)]
        command: AppEnvCommand,
    },
    /// secrets that all tenants of an app have
    Secrets {
        #[command(subcommand)]
        command: AppSecretsCommand,
    },
    /// move the tenants of an app to another release, wave by wave
    Rollout {
        #[command(subcommand)]
        command: RolloutCommand,
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
    /// create a release of an image, which is pulled if the engine lacks it
    Create(CreateRelease),
}

#[derive(Debug, Args)]
pub struct CreateRelease {
    /// short name of the app
    #[arg(value_name = "APP")]
    pub slug: String,
    /// name of an image on the engine, or with its registry: r.example.com/notes:1
    #[arg(
        long,
        value_name = "IMAGE",
        required_unless_present = "tarball",
        conflicts_with = "tarball"
    )]
    pub image: Option<String>,
    /// file that `docker save` wrote, to upload; what breaks goes on
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub tarball: Option<PathBuf>,
    /// when to pull an image that is named with its registry
    #[arg(long, value_name = "WHEN", default_value = PullPolicy::default().as_str(), value_parser = words_of(PullPolicy::ALL, PullPolicy::as_str))]
    pub pull: PullPolicy,
    /// manifest of the release; - for standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub manifest: Option<PathBuf>,
    /// do not try the program first: it runs with a tenant's own variables only
    #[arg(long)]
    pub no_smoke_start: bool,
}

#[derive(Debug, Subcommand)]
pub enum RolloutCommand {
    /// start a rollout and wait for its end
    Start(StartRollout),
    /// show the latest rollout of an app
    Status(AppArg),
    /// begin no further move; what moves finishes
    Pause(AppArg),
    /// continue a paused rollout
    Resume(AppArg),
    /// end a rollout; tenants that moved stay on the new release
    Abort(AbortRollout),
    /// list the latest rollouts of an app
    List(AppArg),
}

#[derive(Debug, Args)]
pub struct AbortRollout {
    #[command(flatten)]
    pub app: AppArg,
    #[command(flatten)]
    pub confirm: Confirm,
}

#[derive(Debug, Args)]
pub struct StartRollout {
    /// short name of the app
    #[arg(value_name = "APP")]
    pub slug: String,
    /// release to move to, like v2; an earlier one is a rollback
    #[arg(long, value_name = "RELEASE")]
    pub release: String,
    /// first this many tenants, then all others (the default, with 1)
    #[arg(long, value_name = "N", group = "waves")]
    pub canary: Option<u32>,
    /// this share of the tenants in each wave, 1 to 100
    #[arg(long, value_name = "P", group = "waves")]
    pub percent: Option<u32>,
    /// this many tenants in each wave
    #[arg(long, value_name = "N", group = "waves")]
    pub wave_size: Option<u32>,
    /// replace no running tenant: each moves once it sleeps
    #[arg(long)]
    pub only_idle: bool,
    /// replace running tenants only between these times in UTC, like 02:00-04:00
    #[arg(long, value_name = "TIMES", conflicts_with = "only_idle")]
    pub window: Option<String>,
    /// number of tenants that may fail, and move back alone, before the rollout stops
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_failures: u32,
    /// percent of 5xx in the responses of a wave above which it moves back; default: 10
    #[arg(long, value_name = "P")]
    pub max_error_percent: Option<u32>,
    /// time that a tenant runs on the release before the next wave, like 5m; default: 5s
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub watch: Option<Duration>,
    #[command(flatten)]
    pub wait: WaitOptions,
}
