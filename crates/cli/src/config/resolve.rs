//! Which server, key and tenant a command uses. Pure.

use std::fmt;

use super::file::{ConfigFile, Profile};

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The flag, with its dashes.
    Flag(&'static str),
    /// The name of the variable.
    Variable(&'static str),
    /// The name of the profile.
    Profile(String),
    /// `default_profile` of the configuration file.
    DefaultProfile,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Variable(name) => f.write_str(name),
            Self::Profile(name) => write!(f, "profile {name}"),
            Self::DefaultProfile => f.write_str("default_profile"),
        }
    }
}

/// A value and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub value: String,
    pub origin: Origin,
}

/// The values that a command line and its environment give.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources<'a> {
    pub flags: ProfileChoice<'a>,
    pub variables: ProfileChoice<'a>,
}

/// One source's settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProfileChoice<'a> {
    pub server: Option<&'a str>,
    pub api_key: Option<&'a str>,
    pub profile: Option<&'a str>,
    pub tenant: Option<&'a str>,
}

/// The settings in effect. The key is still the text that names it: see [`super::Credential`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    pub profile: Option<Setting>,
    pub server: Option<Setting>,
    pub api_key: Option<Setting>,
    pub tenant: Option<Setting>,
    /// The profile has a key, but the server is not the profile's.
    pub withholds_key: bool,
}

/// A profile was chosen that the configuration file does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownProfile(pub Setting);

/// Resolves each setting from the first source that has it: flag, variable, profile.
///
/// A key belongs to its server, and a tenant to its key. So the profile's key is used only with the profile's server,
/// and the profile's tenant only with the profile's key.
///
/// # Errors
/// The chosen profile does not exist.
pub fn resolve(sources: &Sources<'_>, file: &ConfigFile) -> Result<Resolved, UnknownProfile> {
    let Sources { flags, variables } = sources;
    let chosen =
        first(flags.profile, "--profile", variables.profile, "CIAL_PROFILE").or_else(|| {
            let value = file.default_profile.clone()?;
            Some(Setting { value, origin: Origin::DefaultProfile })
        });
    let profile = match &chosen {
        None => None,
        Some(chosen) => match file.profiles.get(&chosen.value) {
            Some(profile) => Some((chosen.value.as_str(), profile)),
            None => return Err(UnknownProfile(chosen.clone())),
        },
    };
    let of_profile = |field: fn(&Profile) -> &Option<String>| {
        let (name, profile) = profile?;
        let value = field(profile).clone()?;
        Some(Setting { value, origin: Origin::Profile(name.to_owned()) })
    };
    let profile_server = of_profile(|profile| &profile.server);
    let server = first(flags.server, "--server", variables.server, "CIAL_SERVER")
        .or_else(|| profile_server.clone());
    let is_profiles_server = match (&server, &profile_server) {
        (Some(server), Some(own)) => address(&server.value) == address(&own.value),
        (Some(_), None) => false,
        (None, _) => true,
    };
    let profile_key = of_profile(|profile| &profile.api_key);
    let other_key = first(flags.api_key, "--api-key", variables.api_key, "CIAL_API_KEY");
    let withholds_key = other_key.is_none() && profile_key.is_some() && !is_profiles_server;
    let uses_profile_key = other_key.is_none() && is_profiles_server;
    let api_key = other_key.or_else(|| profile_key.filter(|_| is_profiles_server));
    let tenant = first(flags.tenant, "--tenant", variables.tenant, "CIAL_TENANT")
        .or_else(|| of_profile(|profile| &profile.tenant).filter(|_| uses_profile_key));
    Ok(Resolved { profile: chosen, server, api_key, tenant, withholds_key })
}

fn first(
    flag: Option<&str>,
    flag_name: &'static str,
    variable: Option<&str>,
    variable_name: &'static str,
) -> Option<Setting> {
    let flag = flag.map(|value| (value, Origin::Flag(flag_name)));
    let variable = variable.map(|value| (value, Origin::Variable(variable_name)));
    let (value, origin) = flag.or(variable)?;
    Some(Setting { value: value.to_owned(), origin })
}

/// The address without a slash at its end, in lower case: the same server for the same text.
fn address(url: &str) -> String {
    url.trim_end_matches('/').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> ConfigFile {
        ConfigFile::parse(
            r#"
            default_profile = "acme"
            [profiles.acme]
            server = "https://a.example"
            api_key = "env:ACME"
            tenant = "acme"
            [profiles.globex]
            server = "https://g.example/"
            api_key = "file:/g"
            [profiles.bare]
            "#,
        )
        .unwrap()
    }

    fn show(setting: Option<&Setting>) -> String {
        setting.map_or("-".to_owned(), |own| format!("{} ({})", own.value, own.origin))
    }

    const NONE: ProfileChoice<'static> =
        ProfileChoice { server: None, api_key: None, profile: None, tenant: None };

    #[test]
    fn flag_beats_variable_beats_profile_beats_default_profile() {
        let server = |server| ProfileChoice { server: Some(server), ..NONE };
        let key = |key| ProfileChoice { api_key: Some(key), ..NONE };
        let profile = |name| ProfileChoice { profile: Some(name), ..NONE };
        let tenant = |name| ProfileChoice { tenant: Some(name), ..NONE };
        let both = ProfileChoice { server: Some("https://x"), api_key: Some("k"), ..NONE };
        let cases = [
            (
                NONE,
                NONE,
                "https://a.example (profile acme)",
                "env:ACME (profile acme)",
                "acme (profile acme)",
            ),
            (
                profile("globex"),
                NONE,
                "https://g.example/ (profile globex)",
                "file:/g (profile globex)",
                "-",
            ),
            (
                NONE,
                profile("globex"),
                "https://g.example/ (profile globex)",
                "file:/g (profile globex)",
                "-",
            ),
            (
                profile("acme"),
                profile("globex"),
                "https://a.example (profile acme)",
                "env:ACME (profile acme)",
                "acme (profile acme)",
            ),
            (both, NONE, "https://x (--server)", "k (--api-key)", "-"),
            (NONE, both, "https://x (CIAL_SERVER)", "k (CIAL_API_KEY)", "-"),
            (both, server("https://y"), "https://x (--server)", "k (--api-key)", "-"),
            // The profile's key does not leave for another server, nor its tenant with another key.
            (server("https://x"), NONE, "https://x (--server)", "-", "-"),
            (NONE, server("https://x"), "https://x (CIAL_SERVER)", "-", "-"),
            (
                server("https://A.example/"),
                NONE,
                "https://A.example/ (--server)",
                "env:ACME (profile acme)",
                "acme (profile acme)",
            ),
            (key("k"), NONE, "https://a.example (profile acme)", "k (--api-key)", "-"),
            (
                tenant("t"),
                tenant("u"),
                "https://a.example (profile acme)",
                "env:ACME (profile acme)",
                "t (--tenant)",
            ),
            (
                NONE,
                tenant("u"),
                "https://a.example (profile acme)",
                "env:ACME (profile acme)",
                "u (CIAL_TENANT)",
            ),
            (profile("bare"), NONE, "-", "-", "-"),
        ];
        for (flags, variables, server, api_key, tenant) in cases {
            let sources = Sources { flags, variables };
            let resolved = resolve(&sources, &file()).unwrap();
            let shown = [&resolved.server, &resolved.api_key, &resolved.tenant]
                .map(|setting| show(setting.as_ref()));
            assert_eq!(shown, [server, api_key, tenant], "{sources:?}");
        }
    }

    #[test]
    fn a_withheld_key_is_reported() {
        let flags = ProfileChoice { server: Some("https://x"), ..NONE };
        let resolve = |flags| resolve(&Sources { flags, variables: NONE }, &file()).unwrap();
        assert!(resolve(flags).withholds_key);
        assert!(!resolve(NONE).withholds_key);
        assert!(!resolve(ProfileChoice { api_key: Some("k"), ..flags }).withholds_key);
    }

    #[test]
    fn without_a_file_nothing_is_set_and_an_unknown_profile_is_an_error() {
        let empty = ConfigFile::default();
        assert_eq!(resolve(&Sources::default(), &empty), Ok(Resolved::default()));
        let flags = ProfileChoice { profile: Some("nope"), ..NONE };
        let error = resolve(&Sources { flags, variables: NONE }, &file()).unwrap_err();
        assert_eq!(show(Some(&error.0)), "nope (--profile)");
    }
}
