//! `cial version`.

use serde_json::json;

use crate::context::{Context, OWN_VERSION, version_warning};
use crate::error::CliError;
use crate::http::{Client, Request};
use crate::output::{Column, Shape};

const VERSIONS: Shape = Shape {
    plural: "versions",
    name: "/cial",
    columns: &[
        Column::new("CIAL", "/cial"),
        Column::new("SERVER", "/server"),
        Column::new("NOTE", "/note"),
    ],
};

/// Shows this program's release, and the server's if one is configured and responds.
pub(super) fn run(context: &Context<'_>) -> Result<(), CliError> {
    let has_server = context.resolved()?.server.is_some();
    let (server, note) = if has_server { ask_server(context)? } else { (None, None) };
    let fits = server.as_deref().map(|server| version_warning(server, OWN_VERSION).is_none());
    let versions = json!({ "cial": OWN_VERSION, "server": server, "fits": fits, "note": note });
    context.output.object(&VERSIONS, &versions)
}

/// The server's release, or why it is not known. Every response carries it, so anyone may ask.
fn ask_server(context: &Context<'_>) -> Result<(Option<String>, Option<String>), CliError> {
    // Without the key: it is not needed, and may be the very thing that is missing.
    let client = Client::new(context.server(&context.resolved()?)?, None);
    match client.exchange(&Request::get("/healthz", "ask the server for its release")) {
        Ok(_) => match client.server_version() {
            Some(version) => Ok((Some(version.to_owned()), None)),
            None => Ok((None, Some(format!("{} does not tell its release", client.server.url)))),
        },
        Err(_) => Ok((None, Some(format!("{} does not answer", client.server.url)))),
    }
}
