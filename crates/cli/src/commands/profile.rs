//! `cial profile` and `cial config`.

use serde_json::{Value, json};

use crate::args::{ConfigCommand, ProfileCommand};
use crate::config::{ConfigFile, Credential, Profile, ServerUrl, Setting};
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Column, Shape};

const PROFILES: Shape = Shape {
    plural: "profiles",
    name: "/name",
    columns: &[
        Column::new("DEFAULT", "/default"),
        Column::new("NAME", "/name"),
        Column::new("SERVER", "/server"),
        Column::new("API-KEY", "/api_key"),
        Column::new("TENANT", "/tenant"),
    ],
};

pub(super) fn run(command: Option<ProfileCommand>, context: &Context<'_>) -> Result<(), CliError> {
    let config = context.config()?;
    match command.unwrap_or(ProfileCommand::List) {
        ProfileCommand::List => {
            let profiles: Vec<_> =
                config.profiles.keys().map(|name| view(config, name, context)).collect();
            context.output.list(&PROFILES, &profiles)
        }
        ProfileCommand::Show(args) => {
            let chosen = context.resolved()?.profile.map(|setting| setting.value);
            let name = args.name.or(chosen).ok_or_else(|| {
                CliError::usage("no profile is in effect")
                    .next("name one, or choose a default: cial profile use NAME")
            })?;
            known(config, &name)?;
            context.output.object(&PROFILES, &view(config, &name, context))
        }
        ProfileCommand::Use(args) => {
            known(config, &args.name)?;
            let mut config = config.clone();
            config.set_default_profile(&args.name);
            write(&config, context)?;
            context.output.note(&format!("profile {} is the default", args.name));
            Ok(())
        }
        ProfileCommand::Set(args) => set(config, &args.name, context),
    }
}

fn set(config: &ConfigFile, name: &str, context: &Context<'_>) -> Result<(), CliError> {
    let (flags, mut config) = (&context.args, config.clone());
    let change = Profile {
        server: flags.server.as_deref().map(normal_server).transpose()?,
        api_key: flags.api_key.clone(),
        tenant: flags.tenant.clone(),
    };
    if change == Profile::default() {
        return Err(CliError::usage(format!("nothing to set in profile {name}"))
            .next("pass --server, --api-key or --tenant"));
    }
    config.set_profile(name, &change);
    if config.default_profile.is_none() {
        config.set_default_profile(name);
    }
    write(&config, context)?;
    context.output.note(&format!("profile {name} is written"));
    Ok(())
}

pub(super) fn normal_server(text: &str) -> Result<String, CliError> {
    let url = ServerUrl::parse(text);
    url.map(|url| url.to_string())
        .map_err(|rule| CliError::usage(format!("the server's address {text:?} {rule}")))
}

pub(super) fn write(config: &ConfigFile, context: &Context<'_>) -> Result<(), CliError> {
    let path = context.config_path()?;
    config.write(&path).map_err(|error| {
        CliError::failed(format!("cannot write {}", path.display())).because(error)
    })
}

fn known<'a>(config: &'a ConfigFile, name: &str) -> Result<&'a Profile, CliError> {
    config.profiles.get(name).ok_or_else(|| {
        let names: Vec<_> = config.profiles.keys().map(String::as_str).collect();
        CliError::usage(format!("there is no profile {name:?}"))
            .next(format!("choose from: {}", names.join(", ")))
    })
}

fn view(config: &ConfigFile, name: &str, context: &Context<'_>) -> Value {
    let profile = config.profiles.get(name).cloned().unwrap_or_default();
    json!({
        "default": if config.default_profile.as_deref() == Some(name) { "*" } else { "" },
        "name": name,
        "server": profile.server,
        "api_key": profile.api_key.map(|key| describe_key(&key, context)),
        "tenant": profile.tenant,
    })
}

/// Where a key is, without the key.
fn describe_key(text: &str, context: &Context<'_>) -> String {
    Credential::parse(text, context.environment.home().as_deref()).describe()
}

const SETTINGS: Shape = Shape {
    plural: "settings",
    name: "/value",
    columns: &[Column::new("SETTING", "/setting"), Column::new("VALUE", "/value")],
};

const SETTINGS_WITH_ORIGIN: Shape = Shape {
    plural: "settings",
    name: "/value",
    columns: &[
        Column::new("SETTING", "/setting"),
        Column::new("VALUE", "/value"),
        Column::new("ORIGIN", "/origin"),
    ],
};

pub(super) fn show_config(command: &ConfigCommand, context: &Context<'_>) -> Result<(), CliError> {
    let ConfigCommand::Show { origin } = command;
    let resolved = context.resolved()?;
    let row = |name: &str, setting: Option<&Setting>, value: Option<String>| {
        let mut row = json!({ "setting": name, "value": value });
        if *origin {
            row["origin"] = json!(setting.map(|setting| setting.origin.to_string()));
        }
        row
    };
    let plain = |name: &str, setting: Option<&Setting>| {
        row(name, setting, setting.map(|setting| setting.value.clone()))
    };
    let key = resolved.api_key.as_ref();
    let file = context.config_path()?;
    let mut rows = vec![
        plain("profile", resolved.profile.as_ref()),
        plain("server", resolved.server.as_ref()),
        row("api_key", key, key.map(|key| describe_key(&key.value, context))),
        plain("tenant", resolved.tenant.as_ref()),
    ];
    let chosen = context.environment.variable("CIAL_CONFIG");
    let mut config_row = json!({ "setting": "config", "value": file.display().to_string() });
    if *origin {
        config_row["origin"] = json!(chosen.map_or("default", |_| "CIAL_CONFIG"));
    }
    rows.push(config_row);
    if resolved.withholds_key {
        context.output.note("the profile's key is not used: it is for the profile's server");
    }
    context.output.list(if *origin { &SETTINGS_WITH_ORIGIN } else { &SETTINGS }, &rows)
}
