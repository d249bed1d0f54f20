//! `cial models`.

use protocol::model::{ModelEndpoint, SetModel};
use serde_json::json;

use super::variables::read_value;
use super::{confirm, tenants};
use crate::args::{ModelsCommand, SetModelArgs};
use crate::context::Context;
use crate::error::CliError;
use crate::http::{Method, Request};
use crate::output::{Column, Shape};

const PATH: &str = "/v1/model";
const NOT_FOUND: u16 = 404;

pub(super) const MODELS: Shape = Shape {
    plural: "models",
    name: "/model",
    columns: &[
        Column::new("MODEL", "/model"),
        Column::new("URL", "/base_url"),
        Column::new("KEY", "/has_key"),
        Column::new("REQUESTS-PER-MINUTE", "/requests_per_minute"),
        Column::new("TOKENS-PER-DAY", "/tokens_per_day"),
        Column::new("MAX-TOKENS", "/max_tokens"),
        Column::new("SYSTEM-PROMPT", "/system_prompt"),
        Column::time("UPDATED", "/updated_at"),
        Column::new("BY", "/updated_by"),
    ],
};

pub(super) const MODEL_USAGE: Shape = Shape {
    plural: "days",
    name: "/day",
    columns: &[
        Column::new("DAY", "/day"),
        Column::new("REQUESTS", "/requests"),
        Column::new("PROMPT-TOKENS", "/prompt_tokens"),
        Column::new("COMPLETION-TOKENS", "/completion_tokens"),
    ],
};

pub(super) fn run(command: Option<ModelsCommand>, context: &Context<'_>) -> Result<(), CliError> {
    match command.unwrap_or(ModelsCommand::Show) {
        ModelsCommand::Show => {
            let found = context.call(&Request::get(PATH, "show the model"))?;
            context.output.object(&MODELS, &found)
        }
        ModelsCommand::Set(args) => set(&args, context),
        ModelsCommand::Unset(args) => {
            if !confirm::is_confirmed(context, args.confirm, "end the replies of the model")? {
                return Ok(());
            }
            context.send(&Request::new(Method::DELETE, PATH, "end the replies of the model"))?;
            context.output.note("no model is set");
            Ok(())
        }
        ModelsCommand::Usage(args) => usage(&args.slug, context),
    }
}

fn usage(slug: &str, context: &Context<'_>) -> Result<(), CliError> {
    let title = format!("show what tenant {slug} used of the model");
    let usage = context.call(&Request::get(tenants::path(slug, "/model-usage"), title))?;
    let days = usage["days"].as_array().cloned().unwrap_or_default();
    context.output.list(&MODEL_USAGE, &days)?;
    if let Some(quota) = usage["tokens_per_day"].as_u64() {
        let today = &usage["tokens_today"];
        context.output.note(&format!("{today} of {quota} tokens of this day are used"));
    }
    Ok(())
}

/// Keeps what the flags do not name.
fn set(args: &SetModelArgs, context: &Context<'_>) -> Result<(), CliError> {
    let body = merge(args, current(context)?)?;
    let request = Request::new(Method::PUT, PATH, "set the model").json(json!(body));
    let set = context.call(&request)?;
    context.output.object(&MODELS, &set)?;
    context
        .output
        .note("tenants whose apps say chat = \"model\" use it from their next message on");
    Ok(())
}

fn current(context: &Context<'_>) -> Result<Option<ModelEndpoint>, CliError> {
    match context.call(&Request::get(PATH, "show the model")) {
        Ok(found) => serde_json::from_value(found).map(Some).map_err(|error| {
            let next = "use a cial of the server's release: `cial version` shows both";
            CliError::failed("cannot read the model that is set").because(error).next(next)
        }),
        Err(error) if error.status() == Some(NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

fn merge(args: &SetModelArgs, current: Option<ModelEndpoint>) -> Result<SetModel, CliError> {
    let needed = |flag: &str| CliError::usage(format!("no model is set yet: {flag} is needed"));
    let key = match &args.key_file {
        Some(file) => Some(read_value(file)?),
        None => args.no_key.then(String::new),
    };
    let prompt = args.system_prompt_file.as_deref().map(read_value).transpose()?;
    let old = current.as_ref();
    let url = args.url.clone().or_else(|| old.map(|old| old.base_url.clone()));
    let model = args.model.clone().or_else(|| old.map(|old| old.model.clone()));
    let max_tokens = args.max_tokens.or_else(|| old.and_then(|old| old.max_tokens));
    Ok(SetModel {
        base_url: url.ok_or_else(|| needed("--url"))?,
        model: model.ok_or_else(|| needed("--model"))?,
        key,
        system_prompt: prompt.or_else(|| old.and_then(|old| old.system_prompt.clone())),
        max_tokens: max_tokens.filter(|tokens| *tokens > 0),
        requests_per_minute: args
            .requests_per_minute
            .or_else(|| old.map(|old| old.requests_per_minute)),
        tokens_per_day: args.tokens_per_day.or_else(|| old.map(|old| old.tokens_per_day)),
    })
}
