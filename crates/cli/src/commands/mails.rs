//! `cial mails`.

use super::pages;
use crate::args::MailsCommand;
use crate::context::Context;
use crate::error::CliError;
use crate::http::Request;
use crate::output::{Column, Shape};

pub(super) const MAILS: Shape = Shape {
    plural: "mails",
    name: "/id",
    columns: &[
        Column::new("TO", "/recipient"),
        Column::new("KIND", "/kind"),
        Column::new("ATTEMPTS", "/attempts"),
        Column::time("NEXT", "/next_attempt_at"),
        Column::new("ERROR", "/last_error"),
        Column::time("QUEUED", "/queued_at").wide(),
        Column::time("EXPIRES", "/expires_at").wide(),
        Column::new("ID", "/id").wide(),
    ],
};

pub(super) fn run(command: Option<MailsCommand>, context: &Context<'_>) -> Result<(), CliError> {
    let MailsCommand::List = command.unwrap_or(MailsCommand::List);
    let request = Request::get("/v1/mails", "list mails");
    context.output.list(&MAILS, &pages::collect(context, &request, "mails", "next", usize::MAX)?)
}
