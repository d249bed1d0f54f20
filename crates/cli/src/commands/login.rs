//! `cial login` and `cial logout`: the key of a profile.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};

use super::browser_login::{self, LoginFlow};
use super::profile;
use super::whoami::WHOAMI;
use crate::args::{LoginArgs, LogoutArgs};
use crate::config::{Credential, Origin, Profile, ServerUrl};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::http::{Method, Request, Server};

/// Stores a key in a file of its own, which the profile names: a key that a person confirms in the browser, or one from
/// standard input that the server accepts.
pub(super) fn login(args: &LoginArgs, context: &Context<'_>) -> Result<(), CliError> {
    let is_known =
        |name: &String| context.config().is_ok_and(|own| own.profiles.contains_key(name));
    let resolved = match context.args.profile.as_ref().filter(|name| !is_known(name)) {
        Some(_) => context.resolved_without_profile()?,
        None => context.resolved()?,
    };
    let server = context.server(&resolved)?;
    let name = profile_name(context, &server.url)?;
    let (key, folder) = match flow(args, context)? {
        Some(flow) => (browser_login::fetch_key(flow, context, &server)?, LOGIN_KEYS),
        None => (read_key()?, OTHER_KEYS),
    };
    let client = context.connect(server, Some(key.clone()));
    let request = Request::get("/v1/auth/whoami", "sign in");
    let whoami = client.call(&request)?.json(&request, &client)?;
    let path = store(context, folder, &name, &key)?;
    let mut config = context.config()?.clone();
    let change = Profile {
        server: Some(client.server.url.to_string()),
        api_key: Some(format!("file:{}", path.display())),
        tenant: context.args.tenant.clone(),
    };
    config.set_profile(&name, &change);
    if config.default_profile.is_none() {
        config.set_default_profile(&name);
    }
    profile::write(&config, context)?;
    context.output.note(&format!("signed in to {} as profile {name}", client.server.url));
    context.output.object(&WHOAMI, &whoami)
}

/// The flow that yields a key; `None`: standard input.
fn flow(args: &LoginArgs, context: &Context<'_>) -> Result<Option<LoginFlow>, CliError> {
    if args.token_stdin {
        Ok(None)
    } else if args.no_browser {
        Ok(Some(LoginFlow::UserCode))
    } else if context.environment.is_stderr_terminal {
        Ok(Some(LoginFlow::Browser))
    } else {
        Err(CliError::usage("cannot open a browser without a terminal").next(
            "set CIAL_API_KEY, or: cial login --token-stdin < FILE, or: cial login --no-browser",
        ))
    }
}

/// The profile in effect; without one a name from the server's host.
fn profile_name(context: &Context<'_>, server: &ServerUrl) -> Result<String, CliError> {
    let config = context.config()?;
    let named = context.args.profile.as_deref().or(context.environment.variable("CIAL_PROFILE"));
    if let Some(name) = named {
        return Ok(name.to_owned());
    }
    let of_server = |profile: &Profile| {
        profile.server.as_deref().and_then(|own| ServerUrl::parse(own).ok()).as_ref()
            == Some(server)
    };
    let found = config.profiles.iter().find(|(_, profile)| of_server(profile));
    Ok(found.map_or_else(|| server.host().to_owned(), |(name, _)| name.clone()))
}

fn read_key() -> Result<String, CliError> {
    let mut line = String::new();
    let failed = || CliError::usage("cannot read a key from standard input");
    std::io::stdin().lock().read_line(&mut line).map_err(|error| failed().because(error))?;
    let key = Credential::Key(line.trim_end_matches(['\n', '\r']).to_owned());
    key.read(|_| None).map_err(|error| failed().because(error))
}

/// The folder of the keys that `cial login` got, beside the configuration file. `cial logout` revokes them.
const LOGIN_KEYS: &str = "login-keys";
/// The folder of the keys from standard input. They belong to whoever made them.
const OTHER_KEYS: &str = "keys";

/// Stores the key of a profile, and returns its file. A profile has one.
fn store(context: &Context<'_>, folder: &str, name: &str, key: &str) -> Result<PathBuf, CliError> {
    let config = context.config_path()?;
    let path = config.with_file_name(folder).join(key_file(name));
    crate::config::write_private(&path, format!("{key}\n").as_bytes()).map_err(|error| {
        CliError::failed(format!("cannot write {}", path.display())).because(error)
    })?;
    let other = if folder == LOGIN_KEYS { OTHER_KEYS } else { LOGIN_KEYS };
    let _ = std::fs::remove_file(config.with_file_name(other).join(key_file(name)));
    Ok(path)
}

/// The name of the file, another for every profile. A dot may stand within it only, so that no file is hidden or a directory.
fn key_file(profile: &str) -> String {
    let mut file = String::with_capacity(profile.len());
    for (at, byte) in profile.bytes().enumerate() {
        match byte {
            b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => file.push(byte.into()),
            b'.' if at > 0 => file.push('.'),
            _ => file.push_str(&format!("%{byte:02X}")),
        }
    }
    file
}

/// Removes the key of a profile, and revokes one that `cial login` got. A key from elsewhere belongs to whoever made it.
pub(super) fn logout(args: &LogoutArgs, context: &Context<'_>) -> Result<(), CliError> {
    let chosen = context.resolved()?.profile.ok_or_else(|| {
        CliError::usage("no profile to sign out of").next("name one with --profile")
    })?;
    let mut config = context.config()?.clone();
    let profile = config.profiles.get(&chosen.value).cloned().unwrap_or_default();
    let Some(key) = config.remove_api_key(&chosen.value) else {
        return Err(CliError::new(
            Exit::NotAuthenticated,
            format!("profile {} has no key", chosen.value),
        ));
    };
    let path = match Credential::parse(&key, context.environment.home().as_deref()) {
        Credential::File(path) => Some(path),
        Credential::Variable(_) | Credential::Key(_) => None,
    };
    let config_path = context.config_path()?;
    let in_folder = |folder: &str| {
        path.as_ref().filter(|path| path.starts_with(config_path.with_file_name(folder)))
    };
    let of_login = in_folder(LOGIN_KEYS).filter(|_| !args.keep_key);
    if let Some(path) = of_login {
        revoke(&profile, path, context)?;
    }
    profile::write(&config, context)?;
    if let Some(path) = in_folder(LOGIN_KEYS).or_else(|| in_folder(OTHER_KEYS)) {
        std::fs::remove_file(path).map_err(|error| {
            CliError::failed(format!("cannot remove {}", path.display())).because(error)
        })?;
    }
    let outcome = if of_login.is_some() {
        "revoked and removed"
    } else {
        "removed; it stays valid on the server"
    };
    context.output.note(&format!("the key of profile {} is {outcome}", chosen.value));
    Ok(())
}

/// Revokes the key in a file at the server of its profile.
fn revoke(profile: &Profile, path: &Path, context: &Context<'_>) -> Result<(), CliError> {
    let failed = || CliError::failed("cannot revoke the key");
    let next = "cial logout --keep-key removes it from this machine only";
    let server = profile.server.as_deref().map(ServerUrl::parse);
    let Some(Ok(url)) = server else {
        return Err(failed().because("the profile names no server").next(next));
    };
    let key = Credential::File(path.to_owned()).read(|_| None);
    let key = key.map_err(|error| failed().because(error).next(next))?;
    let origin = Origin::Profile(path.display().to_string());
    let client = context.connect(Server { url, origin }, Some(key));
    let request = Request::new(Method::POST, "/v1/auth/sign-out", "revoke the key");
    match client.call(&request) {
        // A key that the server does not accept any more has ended already.
        Err(error) if error.exit != Exit::NotAuthenticated => Err(error.next(next)),
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_profile_has_a_key_file_of_its_own() {
        let names = ["a/b", "a_b", ".x", "x", "a.b", "..", "a%2Fb", "ä", ""];
        let files: Vec<_> = names.into_iter().map(key_file).collect();
        insta::assert_snapshot!(files.join(" "), @"a%2Fb a_b %2Ex x a.b %2E. a%252Fb %C3%A4 ");
    }
}
