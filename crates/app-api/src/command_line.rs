//! The commands of `app-api`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use service::{Env, ServiceError};

use crate::{database_proxy, start};

#[derive(Debug, Parser)]
#[command(version, about = "The control plane of Cial")]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// serve the admin and reconcile tenants (the default)
    Serve,
    /// exit 0 when the service here is ready
    Healthcheck,
    /// print a one-time link for an owner who is locked out
    ResetPassword { email: String },
    /// end the second factor of somebody who lost the app and the recovery codes
    ResetSecondFactor { email: String },
    /// check the hash chain of the audit log; exit 1 at the first break
    VerifyAudit,
    /// replace the key that encrypts secrets at rest
    RotateSecrets {
        /// the orchestrator's copy of the file of keys
        #[arg(long, value_name = "PATH")]
        orchestrator_keys: PathBuf,
        #[command(subcommand)]
        step: RotationStep,
    },
    /// let programs inside tenants reach their own schemas on Postgres, as a service of its own
    DatabaseProxy {
        #[command(subcommand)]
        command: Option<ProxyCommand>,
    },
}

/// A step of a rotation. Each can be interrupted and called again.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum RotationStep {
    /// add a key, and encrypt everything with it; exit 1 where something cannot be decrypted
    Start,
    /// show the keys by their ids, and what each of the older ones is needed for
    Status,
    /// remove the older keys, unless something needs them
    Finish,
}

#[derive(Debug, Subcommand)]
enum ProxyCommand {
    /// exit 0 when the proxy here answers
    Check,
}

impl Cli {
    /// Runs the command, or the service where none is given.
    ///
    /// # Errors
    /// The command's own.
    pub fn run(self, env: &Env) -> Result<(), ServiceError> {
        match self.command.unwrap_or(Command::Serve) {
            Command::Serve => start::serve(env),
            Command::Healthcheck => start::healthcheck(env),
            Command::ResetPassword { email } => start::reset_password(env, &email),
            Command::ResetSecondFactor { email } => start::reset_second_factor(env, &email),
            Command::VerifyAudit => start::verify_audit(env),
            Command::RotateSecrets { orchestrator_keys, step } => {
                start::rotate_secrets(env, orchestrator_keys, step)
            }
            Command::DatabaseProxy { command: None } => database_proxy::serve(env),
            Command::DatabaseProxy { command: Some(ProxyCommand::Check) } => {
                database_proxy::check(env)
            }
        }
    }
}
