//! `~/.cial/config.toml`: read strictly, changed without losing comments, written for its owner alone.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use toml_edit::{DocumentMut, Item, Table, TableLike, value};

/// The content of the configuration file.
#[derive(Clone, Debug, Default)]
pub struct ConfigFile {
    pub default_profile: Option<String>,
    pub profiles: BTreeMap<String, Profile>,
    /// Keys that mean nothing, like `profiles.acme.sever`.
    pub unknown_keys: Vec<String>,
    document: DocumentMut,
}

/// A server with its key, and the tenant for commands that belong to one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    pub server: Option<String>,
    pub api_key: Option<String>,
    pub tenant: Option<String>,
}

/// The text is not TOML, or a value has the wrong type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl ConfigFile {
    /// # Errors
    /// The text is not a configuration.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            ConfigError(format!("line {line}: {}", error.message().replace('\n', ", ")))
        })?;
        let mut config = Self::default();
        for (key, item) in document.iter() {
            match key {
                "default_profile" => config.default_profile = Some(string(key, item)?),
                "profiles" => config.read_profiles(item)?,
                _ => config.unknown_keys.push(key.to_owned()),
            }
        }
        config.document = document;
        Ok(config)
    }

    /// Reads a file; an absent file is empty.
    ///
    /// # Errors
    /// The file cannot be read. The inner error: its content is not a configuration.
    pub fn read(path: &Path) -> io::Result<Result<Self, ConfigError>> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ok(Self::default())),
            Err(error) => Err(error),
        }
    }

    fn read_profiles(&mut self, item: &Item) -> Result<(), ConfigError> {
        for (name, item) in table("profiles", item)?.iter() {
            let path = format!("profiles.{name}");
            let mut profile = Profile::default();
            for (key, item) in table(&path, item)?.iter() {
                let path = format!("{path}.{key}");
                match key {
                    "server" => profile.server = Some(string(&path, item)?),
                    "api_key" => profile.api_key = Some(string(&path, item)?),
                    "tenant" => profile.tenant = Some(string(&path, item)?),
                    _ => self.unknown_keys.push(path),
                }
            }
            self.profiles.insert(name.to_owned(), profile);
        }
        Ok(())
    }

    pub fn set_default_profile(&mut self, name: &str) {
        assign(self.document.as_table_mut(), "default_profile", name);
        self.default_profile = Some(name.to_owned());
    }

    /// Creates or changes a profile; an absent field stays as it is.
    pub fn set_profile(&mut self, name: &str, change: &Profile) {
        let profiles = self.document.entry("profiles").or_insert_with(|| {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        });
        let Some(profiles) = profiles.as_table_like_mut() else { return };
        let profile = profiles.entry(name).or_insert_with(|| Item::Table(Table::new()));
        let Some(table) = profile.as_table_like_mut() else { return };
        let own = self.profiles.entry(name.to_owned()).or_default();
        for (key, new, own) in [
            ("server", &change.server, &mut own.server),
            ("api_key", &change.api_key, &mut own.api_key),
            ("tenant", &change.tenant, &mut own.tenant),
        ] {
            if let Some(new) = new {
                assign(table, key, new);
                *own = Some(new.clone());
            }
        }
    }

    /// Removes the key of a profile, and returns the text that named it.
    pub fn remove_api_key(&mut self, name: &str) -> Option<String> {
        let table = self.document.get_mut("profiles")?.get_mut(name)?.as_table_like_mut()?;
        table.remove("api_key");
        self.profiles.get_mut(name)?.api_key.take()
    }

    pub fn text(&self) -> String {
        self.document.to_string()
    }

    /// Writes the file for its owner alone (0600) by a rename, so that no reader meets half of it.
    ///
    /// # Errors
    /// The folder or the file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        write_private(path, self.text().as_bytes())
    }
}

/// Writes a file that only its owner can read, from its first byte on.
///
/// # Errors
/// The folder or the file cannot be written.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    // Behind a link lies the file that a person keeps elsewhere, so the link must stay.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut partial = path.clone().into_os_string();
    partial.push(format!(".{}", std::process::id()));
    let write = || {
        let mut options = OpenOptions::new();
        let mut file: File = options.write(true).create_new(true).mode(0o600).open(&partial)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&partial, &path)
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&partial);
    })
}

/// Replaces a value and keeps the comments around it.
fn assign(table: &mut dyn TableLike, key: &str, text: &str) {
    match table.get_mut(key) {
        Some(Item::Value(old)) => {
            let decor = old.decor().clone();
            *old = text.into();
            *old.decor_mut() = decor;
        }
        Some(other) => *other = value(text),
        None => {
            table.insert(key, value(text));
        }
    }
}

fn string(path: &str, item: &Item) -> Result<String, ConfigError> {
    let text =
        item.as_str().ok_or_else(|| ConfigError(format!("{path} must be text in quotes")))?;
    Ok(text.to_owned())
}

fn table<'a>(path: &str, item: &'a Item) -> Result<&'a dyn TableLike, ConfigError> {
    item.as_table_like().ok_or_else(|| ConfigError(format!("{path} must be a table")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;

    const LITERAL: &str = r#"# my servers
default_profile = "acme-prod" # everyday

[profiles.acme-prod]
server = "https://cial.example.com"
api_key = "env:ACME_KEY" # from the vault

# the other customer
[profiles.globex-prod]
server = "https://cial.example.com"
api_key = "file:/etc/cial/globex.key"
"#;

    #[test]
    fn the_documented_file_is_read() {
        let config = ConfigFile::parse(LITERAL).unwrap();
        assert_eq!(config.default_profile.as_deref(), Some("acme-prod"));
        assert_eq!(
            config.profiles["globex-prod"],
            Profile {
                server: Some("https://cial.example.com".to_owned()),
                api_key: Some("file:/etc/cial/globex.key".to_owned()),
                tenant: None,
            }
        );
        assert!(config.unknown_keys.is_empty());
    }

    #[test]
    fn a_change_keeps_comments_and_order() {
        let mut config = ConfigFile::parse(LITERAL).unwrap();
        config.set_default_profile("globex-prod");
        config.set_profile(
            "acme-prod",
            &Profile {
                api_key: Some("file:~/k".to_owned()),
                tenant: Some("acme".to_owned()),
                server: None,
            },
        );
        config.set_profile(
            "new",
            &Profile { server: Some("http://n".to_owned()), ..Profile::default() },
        );
        insta::assert_snapshot!(config.text(), @r#"
        # my servers
        default_profile = "globex-prod" # everyday

        [profiles.acme-prod]
        server = "https://cial.example.com"
        api_key = "file:~/k" # from the vault
        tenant = "acme"

        # the other customer
        [profiles.globex-prod]
        server = "https://cial.example.com"
        api_key = "file:/etc/cial/globex.key"

        [profiles.new]
        server = "http://n"
        "#);
        assert_eq!(config.remove_api_key("acme-prod").as_deref(), Some("file:~/k"));
        assert!(!config.text().contains("file:~/k"));
        assert_eq!(ConfigFile::parse(&config.text()).unwrap().profiles, config.profiles);
    }

    #[test]
    fn faults_name_their_place() {
        for (text, fault) in [
            ("a = 1\n= 2", "line 2: "),
            ("default_profile = 3", "default_profile must be text in quotes"),
            ("profiles = 3", "profiles must be a table"),
            ("[profiles]\nacme = \"x\"", "profiles.acme must be a table"),
            ("[profiles.acme]\nserver = true", "profiles.acme.server must be text in quotes"),
        ] {
            let error = ConfigFile::parse(text).unwrap_err();
            assert!(error.0.starts_with(fault), "{text:?}: {error:?}");
        }
        let config = ConfigFile::parse("colour = 1\n[profiles.acme]\nsever = \"x\"").unwrap();
        assert_eq!(config.unknown_keys, ["colour", "profiles.acme.sever"]);
    }

    #[test]
    fn a_written_file_belongs_to_its_owner_and_a_link_stays() {
        let folder = std::env::temp_dir().join(format!("cial-config-{}", std::process::id()));
        let (path, link) = (folder.join("deep/config.toml"), folder.join("link.toml"));
        ConfigFile::default().write(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        ConfigFile::parse(LITERAL).unwrap().write(&link).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        let (text, is_link) = (std::fs::read_to_string(&path).unwrap(), link.is_symlink());
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!((mode & 0o777, text.as_str(), is_link), (0o600, LITERAL, true));
    }

    proptest! {
        /// No text makes the parser panic, and what it accepts survives a change.
        #[test]
        fn any_text_is_refused_or_survives_a_change(text in "(\\PC|\n|\\[|\\]|=|\"|profiles|\\.|server){0,40}") {
            if let Ok(mut config) = ConfigFile::parse(&text) {
                config.set_profile("p", &Profile { server: Some("s\"\n".to_owned()), ..Profile::default() });
                let again = ConfigFile::parse(&config.text());
                prop_assert_eq!(again.map(|again| again.profiles), Ok(config.profiles));
            }
        }
    }
}
