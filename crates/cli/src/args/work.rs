//! Packages, workflows, executions and triggers of a tenant.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueHint};
use protocol::triggers::CatchUp;
use serde_json::Value;

use super::{Confirm, words_of};

#[derive(Debug, Subcommand)]
pub enum PackagesCommand {
    /// list the packages of a tenant, the latest first
    List,
    /// upload a package: a .cial file with workflows and their programs
    Upload(UploadPackage),
    /// sign a package, into a file beside it that ends with .sig
    Sign(SignPackage),
    /// delete a package with its workflows
    Delete(DeletePackage),
    /// keys whose signatures of packages the installation trusts
    #[command(args_conflicts_with_subcommands = true)]
    Keys {
        #[command(subcommand)]
        command: Option<PackageKeysCommand>,
    },
}

#[derive(Debug, Args)]
pub struct UploadPackage {
    /// file to upload, like acme-etl-1.2.0.cial
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// file with the signature, from `cial packages sign`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub signature: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct SignPackage {
    /// file to sign, like acme-etl-1.2.0.cial
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// file with a private key of Ed25519 as PEM, from `openssl genpkey`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum PackageKeysCommand {
    /// list the keys, and how many packages each of them signed
    List,
    /// trust the signatures of a key from now on
    Add(AddPackageKey),
    /// trust the signatures of a key no more
    Delete(DeletePackageKey),
}

#[derive(Debug, Args)]
pub struct AddPackageKey {
    /// name of the key
    pub name: String,
    /// file with the public key as PEM, from `openssl pkey -pubout`; - for standard input
    #[arg(long, value_name = "FILE", default_value = "-", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub struct DeletePackageKey {
    /// name of the key
    pub name: String,
    #[command(flatten)]
    pub confirm: Confirm,
}

#[derive(Debug, Args)]
pub struct DeletePackage {
    /// name of the package
    pub name: String,
    /// version of the package
    pub version: String,
    #[command(flatten)]
    pub confirm: Confirm,
}

#[derive(Debug, Subcommand)]
pub enum WorkflowsCommand {
    /// list the workflows of a tenant
    List,
    /// run a workflow inside its tenant
    Run(RunWorkflow),
    /// let a workflow begin no execution and no further task
    Pause(WorkflowArg),
    /// let a paused workflow go on
    Resume(WorkflowArg),
}

#[derive(Debug, Args)]
pub struct WorkflowArg {
    /// name of the workflow
    pub name: String,
}

#[derive(Debug, Args)]
pub struct RunWorkflow {
    /// name of the workflow
    pub name: String,
    /// value of an input: JSON, or else a text
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_input)]
    pub input: Vec<(String, Value)>,
}

#[derive(Debug, Subcommand)]
pub enum ExecutionsCommand {
    /// list executions, the latest first
    List(ListExecutions),
    /// show an execution and its tasks
    Get(ExecutionArg),
    /// print what the tasks of an execution wrote
    Logs(ExecutionArg),
    /// end an execution
    Cancel(CancelExecution),
}

#[derive(Debug, Args)]
pub struct ListExecutions {
    /// at most this many executions
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
}

#[derive(Debug, Args)]
pub struct ExecutionArg {
    /// id of the execution, from `cial executions list`
    pub id: String,
}

#[derive(Debug, Args)]
pub struct CancelExecution {
    /// id of the execution, from `cial executions list`
    pub id: String,
    #[command(flatten)]
    pub confirm: Confirm,
}

#[derive(Debug, Subcommand)]
pub enum TriggersCommand {
    /// list the triggers of a tenant
    List,
    /// create a trigger of a workflow: times, or an address that others call
    Create(CreateTrigger),
    /// show a trigger
    Get(TriggerArg),
    /// let a trigger not fire
    Pause(TriggerArg),
    /// let a paused trigger fire again, from now on
    Resume(TriggerArg),
    /// run the workflow of a trigger now
    Fire(TriggerArg),
    /// delete a trigger
    Delete(DeleteTrigger),
}

#[derive(Debug, Args)]
pub struct TriggerArg {
    /// name of the trigger
    pub name: String,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("kind").required(true).args(["cron", "webhook"]))]
pub struct CreateTrigger {
    /// name of the trigger
    pub name: String,
    /// name of the workflow that it runs
    #[arg(long, value_name = "NAME")]
    pub workflow: String,
    /// fire at these times: minute, hour, day of the month, month, day of the week
    #[arg(long, value_name = "EXPRESSION")]
    pub cron: Option<String>,
    /// fire when somebody calls an address, which is printed
    #[arg(long, conflicts_with_all = ["time_zone", "catch_up"])]
    pub webhook: bool,
    /// time zone of the times, like Europe/Berlin; default: UTC
    #[arg(long, value_name = "ZONE")]
    pub time_zone: Option<String>,
    /// what becomes of times that passed while nothing could fire; default: skip
    #[arg(long, value_name = "RULE", value_parser = words_of(CatchUp::ALL, CatchUp::as_str))]
    pub catch_up: Option<CatchUp>,
    /// value of an input: JSON, or else a text
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_input)]
    pub input: Vec<(String, Value)>,
}

#[derive(Debug, Args)]
pub struct DeleteTrigger {
    /// name of the trigger
    pub name: String,
    #[command(flatten)]
    pub confirm: Confirm,
}

fn parse_input(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| "must be NAME=VALUE".to_owned())?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}
