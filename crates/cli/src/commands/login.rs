//! `cial login` and `cial logout`: the key of a profile.

use std::io::BufRead as _;
use std::path::PathBuf;

use super::profile;
use super::whoami::WHOAMI;
use crate::args::{LoginArgs, LogoutArgs};
use crate::config::{Credential, Profile, ServerUrl};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::http::{Method, Request, segment};

/// Stores a key that the server accepts: in a file of its own, which the profile names.
pub(super) fn login(args: &LoginArgs, context: &Context<'_>) -> Result<(), CliError> {
    let is_known =
        |name: &String| context.config().is_ok_and(|own| own.profiles.contains_key(name));
    let resolved = match context.args.profile.as_ref().filter(|name| !is_known(name)) {
        Some(_) => context.resolved_without_profile()?,
        None => context.resolved()?,
    };
    let server = context.server(&resolved)?;
    let name = profile_name(context, &server.url)?;
    if !args.token_stdin {
        return Err(CliError::usage("cannot sign in without a key")
            .next("create a key in the admin, then: cial login --token-stdin < FILE"));
    }
    let key = read_key()?;
    let client = context.connect(server, Some(key.clone()));
    let request = Request::get("/v1/auth/whoami", "sign in");
    let whoami = client.call(&request)?.json(&request, &client)?;
    let path = store(context, &name, &key)?;
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

/// The file of a profile's key: beside the configuration file.
fn store(context: &Context<'_>, name: &str, key: &str) -> Result<PathBuf, CliError> {
    let path = context.config_path()?.with_file_name("keys").join(key_file(name));
    crate::config::write_private(&path, format!("{key}\n").as_bytes()).map_err(|error| {
        CliError::failed(format!("cannot write {}", path.display())).because(error)
    })?;
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

/// Removes the stored key; `--revoke` also ends it on the server.
pub(super) fn logout(args: &LogoutArgs, context: &Context<'_>) -> Result<(), CliError> {
    let chosen = context.resolved()?.profile.ok_or_else(|| {
        CliError::usage("no profile to sign out of").next("name one with --profile")
    })?;
    if args.revoke {
        revoke(context)?;
    }
    let mut config = context.config()?.clone();
    let Some(key) = config.remove_api_key(&chosen.value) else {
        return Err(CliError::new(
            Exit::NotAuthenticated,
            format!("profile {} has no key", chosen.value),
        ));
    };
    profile::write(&config, context)?;
    let own = context.config_path()?.with_file_name("keys");
    match Credential::parse(&key, context.environment.home().as_deref()) {
        // Other files belong to whoever wrote them.
        Credential::File(path) if path.starts_with(&own) => {
            std::fs::remove_file(&path).map_err(|error| {
                CliError::failed(format!("cannot remove {}", path.display())).because(error)
            })?;
        }
        Credential::File(_) | Credential::Variable(_) | Credential::Key(_) => {}
    }
    let still = if args.revoke { "" } else { "; it stays valid on the server" };
    context.output.note(&format!("the key of profile {} is removed{still}", chosen.value));
    Ok(())
}

fn revoke(context: &Context<'_>) -> Result<(), CliError> {
    let whoami = context.call(&Request::get("/v1/auth/whoami", "find the key's id"))?;
    let id = whoami["key"]["id"].as_str().unwrap_or_default();
    let path = match whoami["tenant"].as_str() {
        Some(tenant) => format!("/v1/tenants/{}/keys/{}", segment(tenant), segment(id)),
        None => format!("/v1/auth/keys/{}", segment(id)),
    };
    context.send(&Request::new(Method::DELETE, path, "revoke the key")).map(|_| ())
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
