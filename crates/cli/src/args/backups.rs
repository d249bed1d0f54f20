//! Backups of tenants.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use super::Confirm;
use crate::complete;

#[derive(Debug, Subcommand)]
pub enum BackupsCommand {
    /// list backups, the latest first; those of deleted tenants, too
    List(ListBackups),
    /// request a backup of a tenant, which is made once the tenant rests
    Create(CreateBackup),
    /// create a tenant from a backup; it stays stopped
    Restore(RestoreBackup),
    /// delete a backup with its archive in the store
    Delete(DeleteBackup),
}

#[derive(Debug, Default, Args)]
pub struct ListBackups {
    /// slug of the tenant; default: --tenant, else the key's tenant, else all
    #[arg(value_name = "SLUG", add = ArgValueCompleter::new(complete::tenants))]
    pub slug: Option<String>,
}

#[derive(Debug, Args)]
pub struct CreateBackup {
    /// slug of the tenant
    #[arg(value_name = "SLUG", add = ArgValueCompleter::new(complete::tenants))]
    pub slug: String,
}

#[derive(Debug, Args)]
pub struct RestoreBackup {
    /// id of the backup, from `cial backups list`
    pub id: String,
    /// slug of the new tenant
    #[arg(long = "as", value_name = "SLUG")]
    pub slug: String,
}

#[derive(Debug, Args)]
pub struct DeleteBackup {
    /// id of the backup, from `cial backups list`
    pub id: String,
    #[command(flatten)]
    pub confirm: Confirm,
}
