//! `cial whoami`.

use crate::context::Context;
use crate::error::CliError;
use crate::http::Request;
use crate::output::{Column, Shape};

pub(super) const WHOAMI: Shape = Shape {
    plural: "identities",
    name: "/key/name",
    columns: &[
        Column::new("KIND", "/kind"),
        Column::new("USER", "/user/email"),
        Column::new("KEY", "/key/name"),
        Column::new("KEY-ID", "/key/id"),
        Column::time("EXPIRES", "/key/expires_at"),
        Column::new("TENANT", "/tenant"),
        Column::new("ROLE", "/role"),
        Column::new("ADMIN", "/is_admin"),
    ],
};

pub(super) fn run(context: &Context<'_>) -> Result<(), CliError> {
    let whoami = context.call(&Request::get("/v1/auth/whoami", "find out whose key this is"))?;
    context.output.object(&WHOAMI, &whoami)
}
