//! `cial backups`.

use std::time::Duration;

use serde_json::json;

use super::tenants::{TENANTS, path};
use super::{confirm, pages};
use crate::args::{BackupsCommand, CreateBackup, DeleteBackup, ListBackups, RestoreBackup};
use crate::context::Context;
use crate::error::CliError;
use crate::http::{Method, Request, segment};
use crate::output::{Column, Shape};

/// As long as the server lets an import take.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(6 * 3_600);

pub(super) const BACKUPS: Shape = Shape {
    plural: "backups",
    name: "/id",
    columns: &[
        Column::new("ID", "/id"),
        Column::new("TENANT", "/tenant"),
        Column::new("STATE", "/state"),
        Column::time("DUE", "/due_at"),
        Column::time("TAKEN", "/taken_at"),
        Column::time("CURRENT", "/current_at"),
        Column::new("BYTES", "/bytes"),
        Column::new("OVERDUE", "/overdue"),
        Column::new("FAILURE", "/failure"),
        Column::new("BY", "/requested_by").wide(),
        Column::new("OBJECT", "/object").wide(),
        Column::new("SHA256", "/sha256").wide(),
    ],
};

pub(super) fn run(command: Option<BackupsCommand>, context: &Context<'_>) -> Result<(), CliError> {
    match command.unwrap_or(BackupsCommand::List(ListBackups::default())) {
        BackupsCommand::List(args) => list(args, context),
        BackupsCommand::Create(args) => create(&args, context),
        BackupsCommand::Restore(args) => restore(&args, context),
        BackupsCommand::Delete(args) => delete(&args, context),
    }
}

fn list(args: ListBackups, context: &Context<'_>) -> Result<(), CliError> {
    let slug = match args.slug {
        Some(slug) => Some(slug),
        None => context.optional_tenant()?,
    };
    let request = match slug {
        None => Request::get("/v1/backups", "list backups"),
        Some(slug) => {
            Request::get(path(&slug, "/backups"), format!("list the backups of tenant {slug}"))
        }
    };
    context
        .output
        .list(&BACKUPS, &pages::collect(context, &request, "backups", "next", usize::MAX)?)
}

fn create(args: &CreateBackup, context: &Context<'_>) -> Result<(), CliError> {
    let slug = &args.slug;
    let title = format!("request a backup of tenant {slug}");
    let request = Request::new(Method::POST, path(slug, "/backups"), title);
    context.output.object(&BACKUPS, &context.call(&request)?)?;
    context.output.note(&format!(
        "it is made once the tenant rests, and the list shows it then: cial backups list {slug}"
    ));
    Ok(())
}

fn restore(args: &RestoreBackup, context: &Context<'_>) -> Result<(), CliError> {
    let RestoreBackup { id, slug } = args;
    let title = format!("restore backup {id} as tenant {slug}");
    let address = format!("/v1/backups/{}/restore", segment(id));
    let request = Request::new(Method::POST, address, title)
        .json(json!({ "as": slug }))
        .patience(RESTORE_TIMEOUT);
    let tenant = context.call(&request)?;
    context.output.object(&TENANTS, &tenant)?;
    context.output.note(&format!(
        "set the variables and secrets of its program, which no backup holds, then: cial tenants start {slug}"
    ));
    Ok(())
}

fn delete(args: &DeleteBackup, context: &Context<'_>) -> Result<(), CliError> {
    let title = format!("delete backup {} with its archive", args.id);
    if !confirm::is_confirmed(context, args.confirm, &title)? {
        return Ok(());
    }
    let address = format!("/v1/backups/{}", segment(&args.id));
    context.send(&Request::new(Method::DELETE, address, title))?;
    context.output.note(&format!("backup {} is deleted", args.id));
    Ok(())
}
