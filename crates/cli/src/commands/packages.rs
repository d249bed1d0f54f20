//! `cial packages`.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::{confirm, pages};
use crate::args::{DeletePackage, PackagesCommand};
use crate::context::Context;
use crate::error::CliError;
use crate::http::{Method, Request, segment};
use crate::output::{Column, Shape};

pub(super) const PACKAGES: Shape = Shape {
    plural: "packages",
    name: "/name",
    columns: &[
        Column::new("NAME", "/name"),
        Column::new("VERSION", "/version"),
        Column::new("WORKFLOWS", "/workflows"),
        Column::new("BYTES", "/bytes"),
        Column::time("CREATED", "/created_at"),
        Column::new("BY", "/created_by").wide(),
        Column::new("SHA256", "/sha256").wide(),
        Column::new("ABOUT", "/about").wide(),
        Column::new("ID", "/id").wide(),
    ],
};

pub(super) const UPLOADED: Shape = Shape {
    plural: "packages",
    name: "/package_id",
    columns: &[
        Column::new("NAME", "/name"),
        Column::new("VERSION", "/version"),
        Column::new("WORKFLOWS", "/workflows"),
        Column::new("ID", "/package_id"),
    ],
};

/// The largest file that the API takes, in bytes.
const MAX_BYTES: u64 = 100_000_000;

pub(super) fn run(command: Option<PackagesCommand>, context: &Context<'_>) -> Result<(), CliError> {
    match command.unwrap_or(PackagesCommand::List) {
        PackagesCommand::List => {
            let tenant = context.tenant()?;
            let title = format!("list the packages of tenant {tenant}");
            let request = Request::get(path(&tenant), title);
            context.output.list(&PACKAGES, &pages::single(context, &request, "items")?)
        }
        PackagesCommand::Upload(args) => upload(&args.file, context),
        PackagesCommand::Delete(args) => delete(&args, context),
    }
}

fn path(tenant: &str) -> String {
    format!("/v1/tenants/{}/packages", segment(tenant))
}

fn upload(file: &Path, context: &Context<'_>) -> Result<(), CliError> {
    let shown = file.display();
    let mut bytes = Vec::new();
    let opened = File::open(file);
    let read = opened.and_then(|opened| opened.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|error| CliError::failed(format!("cannot read {shown}")).because(error))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(CliError::failed(format!("cannot upload {shown}"))
            .because("a package has at most 100 MB")
            .next("leave out what its tasks do not need"));
    }
    let tenant = context.tenant()?;
    let title = format!("upload {shown} to tenant {tenant}");
    let request = Request::new(Method::POST, path(&tenant), title).file(&bytes);
    context.output.object(&UPLOADED, &context.call(&request)?)
}

fn delete(args: &DeletePackage, context: &Context<'_>) -> Result<(), CliError> {
    let (name, version) = (&args.name, &args.version);
    let tenant = context.tenant()?;
    let title = format!("delete package {name} {version} of tenant {tenant}");
    if !confirm::is_confirmed(context, args.confirm, &title)? {
        return Ok(());
    }
    let path = format!("{}/{}/{}", path(&tenant), segment(name), segment(version));
    context.send(&Request::new(Method::DELETE, path, title))?;
    context.output.note(&format!("package {name} {version} is deleted"));
    Ok(())
}
