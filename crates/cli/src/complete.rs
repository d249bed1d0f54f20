//! Completion of words in a shell, with names that the server knows.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::CommandFactory as _;
use clap_complete::CompleteEnv;
use clap_complete::engine::CompletionCandidate;

use crate::Environment;
use crate::args::{Cli, GlobalArgs};
use crate::context::Context;
use crate::http::Request;
use crate::output::Output;

/// The variable by which a shell's script calls the program for candidates.
pub(crate) const VARIABLE: &str = "CIAL_COMPLETE";

/// Answers a shell that asks for candidates, and then ends the process.
pub fn answer_shell() {
    CompleteEnv::with_factory(Cli::command).var(VARIABLE).bin("cial").complete();
}

/// The names of the profiles.
pub fn profiles(begun: &OsStr) -> Vec<CompletionCandidate> {
    let environment = process();
    let global = GlobalArgs { quiet: true, ..GlobalArgs::default() };
    let context = Context::new(global.clone(), &environment, Output::new(&global, &environment));
    let names = context.config().map(|config| config.profiles.keys().cloned().collect());
    matching(begun, names.unwrap_or_default())
}

/// The slugs of the tenants that the key may see. Without a response in time there are none.
pub fn tenants(begun: &OsStr) -> Vec<CompletionCandidate> {
    /// A person waits at the prompt.
    const TIMEOUT: Duration = Duration::from_secs(2);
    let begun_text = begun.to_string_lossy().into_owned();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // The receiver is gone when the shell has given up.
        let _ = sender.send(fetch_tenants(&begun_text));
    });
    matching(begun, receiver.recv_timeout(TIMEOUT).unwrap_or_default())
}

fn fetch_tenants(begun: &str) -> Vec<String> {
    let environment = process();
    let global = global_args(&environment.args);
    let context = Context::new(global.clone(), &environment, Output::new(&global, &environment));
    let request = Request::get("/v1/tenants?limit=100", "list tenants");
    let list = context.call(&request.query("q", Some(begun).filter(|text| !text.is_empty())));
    let slug = |tenant: &serde_json::Value| Some(tenant["slug"].as_str()?.to_owned());
    match list {
        Ok(list) => list["tenants"].as_array().into_iter().flatten().filter_map(slug).collect(),
        // A key of one tenant may list nothing.
        Err(_) => context.optional_tenant().ok().flatten().into_iter().collect(),
    }
}

/// The connection's flags of an unfinished command line, which does not parse as a whole.
fn global_args(words: &[OsString]) -> GlobalArgs {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let value = |flag: &str| {
        words.iter().enumerate().find_map(|(at, word)| match word.strip_prefix(flag)? {
            "" => words.get(at + 1).map(ToString::to_string),
            rest => rest.strip_prefix('=').map(str::to_owned),
        })
    };
    let (server, api_key, profile) = (value("--server"), value("--api-key"), value("--profile"));
    GlobalArgs { server, api_key, profile, quiet: true, ..GlobalArgs::default() }
}

fn matching(begun: &OsStr, names: Vec<String>) -> Vec<CompletionCandidate> {
    let begun = begun.to_string_lossy();
    let matching = names.into_iter().filter(|name| name.starts_with(begun.as_ref()));
    matching.map(CompletionCandidate::new).collect()
}

/// The shell called this process, so its surroundings are the person's.
fn process() -> Environment {
    Environment::of_process()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_an_unfinished_line_are_found() {
        let words: Vec<OsString> =
            ["cial", "--profile=a", "tenants", "get", "--server", "http://s", ""]
                .map(Into::into)
                .into();
        let args = global_args(&words);
        assert_eq!(args.profile.as_deref(), Some("a"));
        assert_eq!(args.server.as_deref(), Some("http://s"));
        assert_eq!(args.api_key, None);
    }
}
