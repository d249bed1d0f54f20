//! `cial api METHOD PATH`: one request, the response as it is.

use std::io::Read as _;

use serde_json::Value;

use crate::args::{ApiArgs, Method};
use crate::context::Context;
use crate::error::CliError;
use crate::http::{self, Request};

pub(super) fn run(args: &ApiArgs, context: &Context<'_>) -> Result<(), CliError> {
    if !args.path.starts_with('/') || args.path.contains(char::is_whitespace) {
        return Err(CliError::usage(format!("the path {:?} is no path of the API", args.path))
            .next("begin it with a slash, like /v1/tenants, and encode blanks"));
    }
    let method = match args.method {
        Method::Get => http::Method::GET,
        Method::Post => http::Method::POST,
        Method::Put => http::Method::PUT,
        Method::Patch => http::Method::PATCH,
        Method::Delete => http::Method::DELETE,
    };
    let mut request = Request::new(method, &args.path, format!("call {}", args.path));
    if let Some(data) = &args.data {
        request = request.json(body(data)?);
    }
    let client = context.client()?;
    let response = client.exchange(&request)?;
    if args.include {
        let mut head = format!("{}\n", response.status);
        for (name, value) in &response.headers {
            head += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
        }
        context.output.data(&(head + "\n"))?;
    }
    // An error response is data, too: a script asked for it.
    let is_failure = !response.status.is_success();
    context.output.bytes(&response.body)?;
    if context.environment.is_stdout_terminal && !response.body.ends_with(b"\n") {
        context.output.data("\n")?;
    }
    if is_failure { client.check(&request, response).map(|_| ()) } else { Ok(()) }
}

/// The body from the argument, from a file, or from standard input.
fn body(data: &str) -> Result<Value, CliError> {
    let failed = |from: &str| CliError::usage(format!("cannot read the body from {from}"));
    let (text, from) = match data.strip_prefix('@') {
        Some(path) => (
            std::fs::read_to_string(path).map_err(|error| failed(path).because(error))?,
            path.to_owned(),
        ),
        None if data == "-" => {
            let (mut text, from) = (String::new(), "standard input".to_owned());
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| failed(&from).because(error))?;
            (text, from)
        }
        None => (data.to_owned(), "--data".to_owned()),
    };
    serde_json::from_str(&text)
        .map_err(|error| failed(&from).because(format!("it is not JSON: {error}")))
}
