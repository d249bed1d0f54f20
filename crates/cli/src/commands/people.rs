//! `cial sessions`, `users`, `members` and `invitations`.

use protocol::people::{ChangeUser, NewInvitation, SetMember};
use serde_json::json;

use super::{confirm, pages};
use crate::args::{InvitationsCommand, MembersCommand, SessionsCommand, UsersCommand};
use crate::context::Context;
use crate::error::CliError;
use crate::http::{Method, Request, segment};
use crate::output::{Column, Shape};

pub(super) const SESSIONS: Shape = Shape {
    plural: "sessions",
    name: "/id",
    columns: &[
        Column::new("ID", "/id"),
        Column::new("DEVICE", "/device"),
        Column::new("ADDRESS", "/address"),
        Column::time("SEEN", "/last_seen_at"),
        Column::time("CREATED", "/created_at").wide(),
        Column::time("EXPIRES", "/expires_at").wide(),
    ],
};

pub(super) const USERS: Shape = Shape {
    plural: "users",
    name: "/id",
    columns: &[
        Column::new("ID", "/id"),
        Column::new("EMAIL", "/email"),
        Column::new("NAME", "/name"),
        Column::new("ROLE", "/role"),
    ],
};

pub(super) const MEMBERS: Shape = Shape {
    plural: "members",
    name: "/user_id",
    columns: &[
        Column::new("USER", "/user_id"),
        Column::new("EMAIL", "/email"),
        Column::new("NAME", "/name"),
        Column::new("ROLE", "/role"),
        Column::time("SINCE", "/since"),
    ],
};

pub(super) const INVITATIONS: Shape = Shape {
    plural: "invitations",
    name: "/id",
    columns: &[
        Column::new("ID", "/id"),
        Column::new("EMAIL", "/email"),
        Column::new("ROLE", "/role"),
        Column::new("BY", "/invited_by"),
        Column::time("EXPIRES", "/expires_at"),
        Column::time("CREATED", "/created_at").wide(),
    ],
};

/// An invitation that was just made: the only time that the server shows its link.
pub(super) const NEW_INVITATION: Shape = Shape {
    plural: "invitations",
    name: "/url",
    columns: &[
        Column::new("URL", "/url"),
        Column::new("ID", "/id"),
        Column::time("EXPIRES", "/expires_at"),
    ],
};

pub(super) fn sessions(
    command: Option<SessionsCommand>,
    context: &Context<'_>,
) -> Result<(), CliError> {
    match command.unwrap_or(SessionsCommand::List) {
        SessionsCommand::List => {
            let request = Request::get("/v1/sessions", "list sessions");
            let sessions = pages::single(context, &request, "sessions").map_err(needs_login)?;
            context.output.list(&SESSIONS, &sessions)
        }
        SessionsCommand::Revoke(args) => {
            let (path, plan, outcome) = match &args.id {
                Some(id) => (
                    format!("/v1/sessions/{}", segment(id)),
                    format!("end session {id}"),
                    format!("session {id} has ended"),
                ),
                None => (
                    "/v1/sessions".to_owned(),
                    "end all sessions of your account".to_owned(),
                    "all sessions of your account have ended".to_owned(),
                ),
            };
            if !confirm::is_confirmed(context, args.confirm, &plan)? {
                return Ok(());
            }
            context.send(&Request::new(Method::DELETE, path, plan)).map_err(needs_login)?;
            context.output.note(&outcome);
            Ok(())
        }
    }
}

/// Sessions belong to a person, whom only some keys have.
fn needs_login(error: CliError) -> CliError {
    match error.code() {
        "forbidden" => error.next("use a key of your own for all tenants: cial login"),
        _ => error,
    }
}

pub(super) fn users(command: Option<UsersCommand>, context: &Context<'_>) -> Result<(), CliError> {
    match command.unwrap_or(UsersCommand::List) {
        UsersCommand::List => {
            let request = Request::get("/v1/users", "list users");
            let users = pages::collect(context, &request, "users", "next", usize::MAX)?;
            context.output.list(&USERS, &users)
        }
        UsersCommand::Get(args) => {
            let request = Request::get(user_path(&args.user), format!("show {}", args.user));
            context.output.object(&USERS, &context.call(&request)?)
        }
        UsersCommand::Set(args) => {
            let title = format!("change {}", args.user);
            let request = Request::new(Method::PATCH, user_path(&args.user), title);
            context.send(&request.json(json!(ChangeUser { role: args.role, name: args.name })))?;
            context.output.note(&format!("{} is changed", args.user));
            Ok(())
        }
        UsersCommand::ResetSecondFactor(args) => {
            let plan = format!("end the second factor of {}", args.user);
            if !confirm::is_confirmed(context, args.confirm, &plan)? {
                return Ok(());
            }
            let path = format!("{}/second-factor", user_path(&args.user));
            context.send(&Request::new(Method::DELETE, path, plan))?;
            context.output.note(&format!("{} signs in without a second factor", args.user));
            Ok(())
        }
        UsersCommand::Delete(args) => {
            let plan = format!("delete {}", args.user);
            if !confirm::is_confirmed(context, args.confirm, &plan)? {
                return Ok(());
            }
            context.send(&Request::new(Method::DELETE, user_path(&args.user), plan))?;
            context.output.note(&format!("{} is deleted", args.user));
            Ok(())
        }
    }
}

fn user_path(id: &str) -> String {
    format!("/v1/users/{}", segment(id))
}

pub(super) fn members(
    command: Option<MembersCommand>,
    context: &Context<'_>,
) -> Result<(), CliError> {
    let tenant = context.tenant()?;
    let path = format!("/v1/tenants/{}/members", segment(&tenant));
    match command.unwrap_or(MembersCommand::List) {
        MembersCommand::List => {
            let request = Request::get(path, format!("list the members of tenant {tenant}"));
            let members = pages::collect(context, &request, "members", "next", usize::MAX)?;
            context.output.list(&MEMBERS, &members)
        }
        MembersCommand::Set(args) => {
            let title = format!("change a member of tenant {tenant}");
            let request =
                Request::new(Method::PUT, format!("{path}/{}", segment(&args.user)), title);
            context.send(&request.json(json!(SetMember { role: args.role })))?;
            context.output.note(&format!(
                "{} is {} of tenant {tenant}",
                args.user,
                args.role.as_str()
            ));
            Ok(())
        }
        MembersCommand::Remove(args) => {
            let plan = format!("remove {} from tenant {tenant}", args.user);
            if !confirm::is_confirmed(context, args.confirm, &plan)? {
                return Ok(());
            }
            let path = format!("{path}/{}", segment(&args.user));
            context.send(&Request::new(Method::DELETE, path, plan))?;
            context.output.note(&format!("{} is no member of tenant {tenant} any more", args.user));
            Ok(())
        }
    }
}

pub(super) fn invitations(
    command: Option<InvitationsCommand>,
    context: &Context<'_>,
) -> Result<(), CliError> {
    let path = match context.optional_tenant()? {
        Some(tenant) => format!("/v1/tenants/{}/invitations", segment(&tenant)),
        None => "/v1/invitations".to_owned(),
    };
    match command.unwrap_or(InvitationsCommand::List) {
        InvitationsCommand::List => {
            let request = Request::get(path, "list invitations");
            context.output.list(
                &INVITATIONS,
                &pages::collect(context, &request, "invitations", "next", usize::MAX)?,
            )
        }
        InvitationsCommand::Create(args) => {
            let title = format!("invite {}", args.email);
            let new = NewInvitation { email: args.email, role: args.role };
            let request = Request::new(Method::POST, path, title).json(json!(new));
            let invitation = context.call(&request)?;
            context.output.object(&NEW_INVITATION, &invitation)?;
            let note = match invitation["mailed"].as_bool() {
                Some(true) => "the link is on its way by mail; nobody can see it again",
                Some(false) | None => "send the link to the person: nobody can see it again",
            };
            context.output.note(note);
            Ok(())
        }
        InvitationsCommand::Revoke(args) => {
            let plan = format!("withdraw invitation {}", args.id);
            if !confirm::is_confirmed(context, args.confirm, &plan)? {
                return Ok(());
            }
            let path = format!("{path}/{}", segment(&args.id));
            context.send(&Request::new(Method::DELETE, path, plan))?;
            context.output.note(&format!("invitation {} is withdrawn", args.id));
            Ok(())
        }
    }
}
