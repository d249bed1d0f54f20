//! The table of settings as the reference shows it, and the check that the table is what a service reads.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use super::{SetIn, Setting, Unset};
use crate::run::Env;

/// The table of a service for `docs/reference/settings.md`, without a line break at its end.
pub fn reference_table(settings: &[Setting]) -> String {
    let rows = settings.iter().map(|setting| {
        let default = match setting.unset {
            Unset::Refused | Unset::SecretRefused => "must be set".to_owned(),
            Unset::Default(text) => format!("`{text}`"),
            Unset::Computed(description) => description.to_owned(),
            Unset::Off => "none".to_owned(),
        };
        let set_in = match setting.set_in {
            SetIn::Compose => "compose.yml",
            SetIn::EnvFile => "`.env`",
            SetIn::Orchestrator => "the orchestrator",
        };
        format!("\n| `{}` | {default} | {set_in} | {} |", setting.name, setting.purpose)
    });
    let head = "| variable | default | set in | means |\n|---|---|---|---|";
    format!("{head}{}", rows.collect::<String>())
}

/// The names of the variables that `read` looks up in an environment where none is set.
///
/// A service's test compares them with its table: every variable that is read is in the table, and every variable of
/// the table is read.
pub fn variables_read(read: impl FnOnce(&Env)) -> BTreeSet<String> {
    let names = Rc::new(RefCell::new(BTreeSet::new()));
    let lookup = {
        let names = names.clone();
        move |name: &str| {
            names.borrow_mut().insert(name.to_owned());
            None
        }
    };
    read(&lookup);
    names.take()
}
