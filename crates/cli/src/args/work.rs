//! Packages, workflows and executions of a tenant.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use serde_json::Value;

use super::Confirm;

#[derive(Debug, Subcommand)]
pub enum PackagesCommand {
    /// list the packages of a tenant, the latest first
    List,
    /// upload a package: a .cial file with workflows and their programs
    Upload(UploadPackage),
    /// delete a package with its workflows
    Delete(DeletePackage),
}

#[derive(Debug, Args)]
pub struct UploadPackage {
    /// file to upload, like acme-etl-1.2.0.cial
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
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

fn parse_input(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| "must be NAME=VALUE".to_owned())?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}
