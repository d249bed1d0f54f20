//! Reads the text: each key by its kind, every fault collected.

use std::collections::{BTreeMap, BTreeSet};

use toml_edit::{Document, Item, TableLike, Value};

use crate::error::ManifestError;
use crate::keys::{KEYS, Kind, env_fault, port_fault, public_path_fault};
use crate::{CHAT_MODEL, MAX_BYTES, MAX_HOOK_SECONDS, MAX_PUBLIC_PATHS, MAX_SECRETS, Manifest};

/// Below this similarity, a known key is no hint for an unknown one.
const MIN_SIMILARITY: f64 = 0.75;
const REQUIRED_SECRETS: &str = "secrets.required";

pub(crate) fn read(text: &str) -> Result<Manifest, Vec<ManifestError>> {
    if text.len() > MAX_BYTES {
        let message = format!("the manifest is longer than {MAX_BYTES} bytes");
        return Err(vec![ManifestError::new(text, None, "", &message)]);
    }
    let document = Document::parse(text).map_err(|error| {
        let message = error.message().replace('\n', ", ");
        vec![ManifestError::new(text, error.span(), "", &message)]
    })?;
    let mut reader = Reader { text, faults: Vec::new(), manifest: Manifest::default() };
    reader.table("", document.as_table());
    reader.check_secrets(document.as_table().get("secrets"));
    let Reader { mut faults, manifest, .. } = reader;
    faults.sort_by_key(|fault| (fault.line, fault.column));
    if faults.is_empty() { Ok(manifest) } else { Err(faults) }
}

struct Reader<'a> {
    text: &'a str,
    faults: Vec<ManifestError>,
    manifest: Manifest,
}

impl Reader<'_> {
    /// `prefix` is the name of the table with a dot, or empty for the top.
    fn table(&mut self, prefix: &str, table: &dyn TableLike) {
        for (name, item) in table.iter() {
            let path = format!("{prefix}{name}");
            if let Some(key) = KEYS.iter().find(|key| key.name == path) {
                self.value(key.kind, key.name, item);
            } else if is_table(&path) {
                match item.as_table_like() {
                    Some(inner) => self.table(&format!("{path}."), inner),
                    None => self.refuse(item.span(), &path, "must be a table"),
                }
            } else {
                let span = table.key(name).and_then(|key| key.span()).or_else(|| item.span());
                self.refuse(span, &path, &unknown_key(prefix, &path));
            }
        }
    }

    fn value(&mut self, kind: Kind, name: &str, item: &Item) {
        match kind {
            Kind::Command => {
                let command = self.command(name, item);
                match name {
                    "hooks.before_first_start" => self.manifest.before_first_start = command,
                    "hooks.migrate" => self.manifest.migrate = command,
                    _ => self.manifest.command = command,
                }
            }
            Kind::Seconds => self.manifest.hook_timeout = self.seconds(name, item),
            Kind::Port => self.manifest.port = self.port(name, item),
            Kind::Chat => self.manifest.chat = self.chat(name, item),
            Kind::Path => self.manifest.health_path = self.path(name, item),
            Kind::PublicPaths => self.manifest.public_paths = self.public_paths(name, item),
            Kind::Flag => self.manifest.database = self.flag(name, item),
            Kind::Variables => self.manifest.env = self.variables(name, item),
            Kind::Names => self.secrets(name, item),
        }
    }

    fn refuse(&mut self, span: Option<std::ops::Range<usize>>, key: &str, message: &str) {
        self.faults.push(ManifestError::new(self.text, span, key, message));
    }

    fn command(&mut self, name: &str, item: &Item) -> Option<Vec<String>> {
        let Some(array) = item.as_array() else {
            self.refuse(item.span(), name, r#"must be a list of texts, like ["program", "flag"]"#);
            return None;
        };
        if array.iter().next().and_then(Value::as_str).is_none_or(str::is_empty) {
            self.refuse(item.span(), name, "must begin with a program");
        }
        for value in array.iter().filter(|value| text(value).is_none()) {
            self.refuse(value.span(), name, "must hold texts without NUL only");
        }
        Some(array.iter().filter_map(text).map(str::to_owned).collect())
    }

    fn port(&mut self, name: &str, item: &Item) -> Option<u16> {
        let Some(port) = item.as_integer() else {
            self.refuse(item.span(), name, "must be a number");
            return None;
        };
        if let Some(fault) = port_fault(port) {
            self.refuse(item.span(), name, &fault);
        }
        u16::try_from(port).ok()
    }

    fn seconds(&mut self, name: &str, item: &Item) -> Option<u32> {
        let seconds = item.as_integer().and_then(|seconds| u32::try_from(seconds).ok());
        let seconds = seconds.filter(|seconds| (1..=MAX_HOOK_SECONDS).contains(seconds));
        if seconds.is_none() {
            let fault = format!("must be a number of seconds from 1 to {MAX_HOOK_SECONDS}");
            self.refuse(item.span(), name, &fault);
        }
        seconds
    }

    fn chat(&mut self, name: &str, item: &Item) -> Option<String> {
        let chat = item.as_str().filter(|chat| *chat == CHAT_MODEL || is_path(chat));
        if chat.is_none() {
            let fault = r#"must be "model", or a path that begins with / and holds no blank"#;
            self.refuse(item.span(), name, fault);
        }
        chat.map(str::to_owned)
    }

    fn path(&mut self, name: &str, item: &Item) -> Option<String> {
        let path = item.as_str().filter(|path| is_path(path));
        if path.is_none() {
            self.refuse(item.span(), name, "must be a path that begins with / and holds no blank");
        }
        path.map(str::to_owned)
    }

    fn public_paths(&mut self, name: &str, item: &Item) -> Vec<String> {
        let Some(array) = item.as_array() else {
            self.refuse(item.span(), name, r#"must be a list of paths, like ["/webhooks/"]"#);
            return Vec::new();
        };
        if array.len() > MAX_PUBLIC_PATHS {
            let fault = format!("must hold at most {MAX_PUBLIC_PATHS} paths");
            self.refuse(item.span(), name, &fault);
        }
        for value in array {
            let fault = value.as_str().map_or(Some("must hold texts only"), public_path_fault);
            if let Some(fault) = fault {
                self.refuse(value.span(), name, fault);
            }
        }
        array.iter().filter_map(text).map(str::to_owned).collect()
    }

    fn flag(&mut self, name: &str, item: &Item) -> bool {
        item.as_bool().unwrap_or_else(|| {
            self.refuse(item.span(), name, "must be true or false");
            false
        })
    }

    fn variables(&mut self, name: &str, item: &Item) -> BTreeMap<String, String> {
        let Some(table) = item.as_table_like() else {
            self.refuse(item.span(), name, r#"must be a table, like { GREETING = "hello" }"#);
            return BTreeMap::new();
        };
        let mut variables = BTreeMap::new();
        for (variable, item) in table.iter() {
            let path = format!("{name}.{variable}");
            let span = table.key(variable).and_then(|key| key.span());
            if let Some(fault) = env_fault(variable) {
                self.refuse(span, &path, &fault);
            }
            match item.as_str().filter(|text| !text.contains('\0')) {
                Some(text) => drop(variables.insert(variable.to_owned(), text.to_owned())),
                None => self.refuse(item.span(), &path, "must be a text without NUL"),
            }
        }
        variables
    }

    /// Reads the names of one list of secrets.
    fn secrets(&mut self, name: &str, item: &Item) {
        let Some(array) = item.as_array() else {
            self.refuse(item.span(), name, r#"must be a list of names, like ["SECRET_KEY"]"#);
            return;
        };
        for value in array {
            let fault = match value.as_str() {
                Some(variable) => env_fault(variable).map(|rule| format!("{variable} {rule}")),
                None => Some("must hold texts only".to_owned()),
            };
            if let Some(fault) = fault {
                self.refuse(value.span(), name, &fault);
            }
        }
        let names = array.iter().filter_map(text).map(str::to_owned).collect();
        if name == REQUIRED_SECRETS {
            self.manifest.required_secrets = names;
        } else {
            self.manifest.optional_secrets = names;
        }
    }

    /// Refuses names that occur twice, names that `env` sets for everybody to read, and too many names.
    fn check_secrets(&mut self, secrets: Option<&Item>) {
        let mut seen = BTreeSet::new();
        let lists = secrets.and_then(Item::as_table_like);
        for (list, array) in lists.iter().flat_map(|table| table.iter()) {
            let path = format!("secrets.{list}");
            for value in array.as_array().into_iter().flatten() {
                let Some(name) = value.as_str() else { continue };
                if !seen.insert(name.to_owned()) {
                    self.refuse(value.span(), &path, &format!("{name} is named twice"));
                } else if self.manifest.env.contains_key(name) {
                    let fault = format!("{name} is set by env, which everybody may read");
                    self.refuse(value.span(), &path, &fault);
                }
            }
        }
        if seen.len() > MAX_SECRETS {
            let fault = format!("must name at most {MAX_SECRETS} secrets");
            self.refuse(secrets.and_then(Item::span), "secrets", &fault);
        }
    }
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic())
}

/// A text without NUL, as programs take it.
fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.contains('\0'))
}

fn is_table(path: &str) -> bool {
    KEYS.iter().any(|key| key.name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

fn unknown_key(prefix: &str, path: &str) -> String {
    let candidates = KEYS.iter().flat_map(|key| {
        let table = key.name.split_once('.').map(|(table, _)| table);
        [Some(key.name), table].into_iter().flatten()
    });
    let nearest = candidates
        .filter(|name| name.starts_with(prefix))
        .map(|name| (strsim::jaro_winkler(name, path), name))
        .filter(|(similarity, _)| *similarity >= MIN_SIMILARITY)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((_, name)) => format!("is unknown; did you mean {name}?"),
        None => {
            let names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
            format!("is unknown; the keys are {}", names.join(", "))
        }
    }
}
