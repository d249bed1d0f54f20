//! `cial webhooks`.

use protocol::webhooks::NewWebhook;
use serde_json::json;

use super::{confirm, pages};
use crate::args::{CreateWebhook, WebhooksCommand};
use crate::context::Context;
use crate::error::CliError;
use crate::http::{Method, Request, segment};
use crate::output::{Column, Shape};

const PATH: &str = "/v1/webhooks";

pub(super) const WEBHOOKS: Shape = Shape {
    plural: "webhooks",
    name: "/id",
    columns: &[
        Column::new("ID", "/id"),
        Column::new("URL", "/url"),
        Column::time("CREATED", "/created_at"),
        Column::new("BY", "/created_by").wide(),
    ],
};

/// A webhook that was just made: the only time that the server shows its secret.
pub(super) const NEW_WEBHOOK: Shape = Shape {
    plural: "webhooks",
    name: "/id",
    columns: &[
        Column::new("SECRET", "/secret"),
        Column::new("ID", "/id"),
        Column::new("URL", "/url"),
    ],
};

pub(super) const DELIVERIES: Shape = Shape {
    plural: "deliveries",
    name: "/id",
    columns: &[
        Column::new("ID", "/id"),
        Column::new("EVENT", "/event"),
        Column::state("STATE", "/state"),
        Column::new("ATTEMPTS", "/attempts"),
        Column::new("STATUS", "/last_status"),
        Column::time("CREATED", "/created_at"),
        Column::time("NEXT", "/next_attempt_at").wide(),
        Column::new("ERROR", "/last_error").wide(),
        Column::time("FINISHED", "/finished_at").wide(),
    ],
};

pub(super) fn run(command: Option<WebhooksCommand>, context: &Context<'_>) -> Result<(), CliError> {
    match command.unwrap_or(WebhooksCommand::List) {
        WebhooksCommand::List => {
            let webhooks =
                pages::single(context, &Request::get(PATH, "list webhooks"), "webhooks")?;
            context.output.list(&WEBHOOKS, &webhooks)
        }
        WebhooksCommand::Create(args) => create(&args, context),
        WebhooksCommand::Delete(args) => {
            if !confirm::is_confirmed(
                context,
                args.confirm,
                &format!("delete webhook {}", args.id),
            )? {
                return Ok(());
            }
            let (path, title) = (path(&args.id), format!("delete webhook {}", args.id));
            context.send(&Request::new(Method::DELETE, path, title))?;
            context.output.note(&format!("webhook {} is deleted", args.id));
            Ok(())
        }
        WebhooksCommand::Deliveries(args) => {
            let path = format!("{}/deliveries", path(&args.id));
            let request = Request::get(path, format!("list the deliveries of webhook {}", args.id));
            context.output.list(&DELIVERIES, &pages::single(context, &request, "deliveries")?)
        }
        WebhooksCommand::Replay(args) => {
            let delivery = segment(&args.delivery);
            let path = format!("{}/deliveries/{delivery}/replay", path(&args.webhook));
            let title = format!("send delivery {} again", args.delivery);
            context.send(&Request::new(Method::POST, path, title))?;
            context.output.note(&format!("delivery {} is sent again", args.delivery));
            Ok(())
        }
    }
}

fn create(args: &CreateWebhook, context: &Context<'_>) -> Result<(), CliError> {
    let body = NewWebhook { url: args.url.clone() };
    let request = Request::new(Method::POST, PATH, "create the webhook").json(json!(body));
    let created = context.call(&request)?;
    context.output.object(&NEW_WEBHOOK, &created)?;
    context.output.note("store the secret now: nobody can see it again");
    Ok(())
}

fn path(id: &str) -> String {
    format!("{PATH}/{}", segment(id))
}
