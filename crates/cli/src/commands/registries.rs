//! `cial registries`.

use protocol::images::SetRegistry;
use serde_json::json;

use super::{confirm, pages, variables};
use crate::args::{self, RegistriesCommand};
use crate::context::Context;
use crate::error::CliError;
use crate::http::{Method, Request, segment};
use crate::output::{Column, Shape};

const PATH: &str = "/v1/registries";

pub(super) const REGISTRIES: Shape = Shape {
    plural: "registries",
    name: "/host",
    columns: &[
        Column::new("HOST", "/host"),
        Column::new("USERNAME", "/username"),
        Column::time("SET", "/updated_at"),
        Column::new("BY", "/updated_by").wide(),
    ],
};

pub(super) fn run(
    command: Option<RegistriesCommand>,
    context: &Context<'_>,
) -> Result<(), CliError> {
    match command.unwrap_or(RegistriesCommand::List) {
        RegistriesCommand::List => {
            let request = Request::get(PATH, "list registries");
            context.output.list(&REGISTRIES, &pages::single(context, &request, "registries")?)
        }
        RegistriesCommand::Set(args) => set(&args, context),
        RegistriesCommand::Delete(args) => {
            let plan = format!("delete the account of registry {}", args.host);
            if !confirm::is_confirmed(context, args.confirm, &plan)? {
                return Ok(());
            }
            context.send(&Request::new(Method::DELETE, path(&args.host), plan))?;
            context.output.note(&format!("the account of registry {} is deleted", args.host));
            Ok(())
        }
    }
}

fn set(args: &args::SetRegistry, context: &Context<'_>) -> Result<(), CliError> {
    let password = variables::read_value(&args.file)?;
    let body = SetRegistry { username: args.username.clone(), password };
    let title = format!("set the account of registry {}", args.host);
    context.send(&Request::new(Method::PUT, path(&args.host), title).json(json!(body)))?;
    let note = format!("images of {} are pulled as {} from now on", args.host, args.username);
    context.output.note(&note);
    Ok(())
}

fn path(host: &str) -> String {
    format!("{PATH}/{}", segment(host))
}
