//! `cial audit`.

use std::io::Read as _;

use super::pages;
use crate::args::{AuditCommand, AuditFilter, ExportAudit, ListAudit};
use crate::clock;
use crate::context::Context;
use crate::error::CliError;
use crate::http::Request;
use crate::output::{Column, Shape, parse_moment};

pub(super) const AUDIT: Shape = Shape {
    plural: "entries",
    name: "/id",
    columns: &[
        Column::new("TIME", "/at"),
        Column::new("ACTOR", "/actor"),
        Column::new("ACTION", "/action"),
        Column::new("RESOURCE", "/resource"),
        Column::new("ADDRESS", "/address"),
        Column::new("ID", "/id").wide(),
        Column::new("KIND", "/actor_kind").wide(),
        Column::new("ROLE", "/role").wide(),
        Column::new("REQUEST", "/request_id").wide(),
        Column::new("BEFORE", "/before").wide(),
        Column::new("AFTER", "/after").wide(),
    ],
};

pub(super) fn run(
    list: ListAudit,
    command: Option<AuditCommand>,
    context: &Context<'_>,
) -> Result<(), CliError> {
    match command.unwrap_or(AuditCommand::List(list)) {
        AuditCommand::List(args) => show(&args, context),
        AuditCommand::Export(args) => export(&args, context),
    }
}

fn show(args: &ListAudit, context: &Context<'_>) -> Result<(), CliError> {
    let request = filtered(Request::get("/v1/audit", "read the audit"), &args.filter)?;
    let entries = pages::collect(context, &request, "entries", "next", args.limit)?;
    context.output.list(&AUDIT, &entries)
}

fn filtered(request: Request, filter: &AuditFilter) -> Result<Request, CliError> {
    Ok(request
        .query("actor", filter.actor.as_deref())
        .query("action", filter.action.as_deref())
        .query("resource", filter.resource.as_deref())
        .query("since", moment("since", filter.since.as_deref())?.as_deref())
        .query("until", moment("until", filter.until.as_deref())?.as_deref()))
}

fn moment(flag: &str, text: Option<&str>) -> Result<Option<String>, CliError> {
    let parse = |text| {
        parse_moment(text, clock::now())
            .map_err(|rule| CliError::usage(format!("--{flag} {text:?} {rule}")))
    };
    text.map(parse).transpose()
}

/// Copies the export as it arrives, however long it is.
fn export(args: &ExportAudit, context: &Context<'_>) -> Result<(), CliError> {
    let request = Request::get("/v1/audit/export", "export the audit")
        .query("format", Some(args.format.as_str()));
    let request = filtered(request, &args.filter)?;
    let mut body = context.client()?.stream(&request)?;
    let mut piece = vec![0; 64 << 10];
    loop {
        match body.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) => context.output.bytes(&piece[..length])?,
            Err(error) => {
                return Err(CliError::failed("cannot export the whole audit")
                    .because(format!("the connection broke before its end: {error}"))
                    .next("the output is not complete: export again"));
            }
        }
    }
}
