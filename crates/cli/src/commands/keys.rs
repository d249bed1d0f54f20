//! `cial keys`.

use protocol::api_keys::NewKey;
use serde_json::json;

use super::{confirm, pages};
use crate::args::{CreateKey, KeysCommand, ListKeys};
use crate::context::Context;
use crate::error::CliError;
use crate::http::{Method, Request, segment};
use crate::output::{Column, Shape};

pub(super) const KEYS: Shape = Shape {
    plural: "keys",
    name: "/id",
    columns: &[
        Column::new("ID", "/id"),
        Column::new("NAME", "/name"),
        Column::new("ROLE", "/role"),
        Column::new("TENANT", "/tenant"),
        Column::new("ADMIN", "/is_admin"),
        Column::time("EXPIRES", "/expires_at"),
        Column::time("USED", "/last_used_at"),
        Column::new("REVOKED", "/revoked"),
        Column::new("PERSON", "/person").wide(),
        Column::time("CREATED", "/created_at").wide(),
    ],
};

/// A key that was just made: the only time that the server shows it.
pub(super) const NEW_KEY: Shape = Shape {
    plural: "keys",
    name: "/key",
    columns: &[
        Column::new("KEY", "/key"),
        Column::new("ID", "/id"),
        Column::new("NAME", "/name"),
        Column::new("ROLE", "/role"),
        Column::new("TENANT", "/tenant"),
        Column::new("ADMIN", "/is_admin"),
        Column::time("EXPIRES", "/expires_at"),
    ],
};

pub(super) fn run(command: Option<KeysCommand>, context: &Context<'_>) -> Result<(), CliError> {
    match command.unwrap_or(KeysCommand::List(ListKeys::default())) {
        KeysCommand::List(args) => {
            let request = Request::get(path(args.mine, context)?, "list keys");
            context
                .output
                .list(&KEYS, &pages::collect(context, &request, "keys", "next", usize::MAX)?)
        }
        KeysCommand::Create(args) => create(&args, context),
        KeysCommand::Revoke(args) => {
            if !confirm::is_confirmed(context, args.confirm, &format!("revoke key {}", args.id))? {
                return Ok(());
            }
            let path = format!("{}/{}", path(args.mine, context)?, segment(&args.id));
            context.send(&Request::new(Method::DELETE, path, format!("revoke key {}", args.id)))?;
            context.output.note(&format!("key {} is revoked", args.id));
            Ok(())
        }
    }
}

fn create(args: &CreateKey, context: &Context<'_>) -> Result<(), CliError> {
    let new = NewKey {
        name: args.name.clone(),
        role: args.role,
        is_admin: args.is_admin,
        expires_in_days: Some(if args.never_expires { 0 } else { args.expires_in_days }),
    };
    let path = if args.is_admin { GLOBAL.to_owned() } else { path(false, context)? };
    let request = Request::new(Method::POST, path, format!("create key {}", args.name));
    let created = context.call(&request.json(json!(new)))?;
    context.output.object(&NEW_KEY, &created)?;
    context.output.note("store the key now: nobody can see it again");
    Ok(())
}

const GLOBAL: &str = "/v1/auth/keys";

/// The caller's own keys; or the keys of the tenant in effect, and without one those of the whole installation.
fn path(is_mine: bool, context: &Context<'_>) -> Result<String, CliError> {
    if is_mine {
        return Ok("/v1/users/me/keys".to_owned());
    }
    Ok(match context.optional_tenant()? {
        Some(tenant) => format!("/v1/tenants/{}/keys", segment(&tenant)),
        None => GLOBAL.to_owned(),
    })
}
