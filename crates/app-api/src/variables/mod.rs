//! Variables and secrets of programs: of one tenant, and of an app for all its tenants. Each owner has one encrypted
//! record. A change takes effect at the next start.

pub mod of_app;
pub mod of_tenant;

use protocol::problem::{Code, FieldCode};
use protocol::variables::{Variable, Variables};
use serde_json::{Value, json};
use service::api_error::ApiError;
use service::sealing_keys::{Purpose, SealingKeys};

use crate::audit::Action;
use crate::validation::refused_field;

const MAX_VALUE_BYTES: usize = 16 << 10;
const MAX_NAME_BYTES: usize = 128;

/// A kind of variable: the calls of one kind do not see the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Env,
    Secret,
}

impl Kind {
    fn of(variable: &Variable) -> Self {
        if variable.secret { Self::Secret } else { Self::Env }
    }

    /// Keeps the variables of this kind.
    fn filter(self, mut variables: Variables) -> Variables {
        variables.retain(|_, variable| Self::of(variable) == self);
        variables
    }
}

/// The owner of a record of variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Tenant,
    App,
}

impl Owner {
    const fn noun(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::App => "app",
        }
    }

    /// The most bytes of all names and values. The record is part of every spec; that of an app is in the row of each
    /// of its tenants.
    const fn max_total_bytes(self) -> usize {
        match self {
            Self::Tenant => 32 << 10,
            Self::App => 16 << 10,
        }
    }

    /// The most bytes of a record before its encryption. The names, the quotation marks and the escapes of JSON count, because
    /// the orchestrator takes specs of 128 KiB, in which both records are base64.
    const fn max_record_bytes(self) -> usize {
        self.max_total_bytes() / 2 * 3
    }

    const fn action(self, kind: Kind) -> Action {
        match (self, kind) {
            (Self::Tenant, Kind::Env) => Action::TenantEnv,
            (Self::Tenant, Kind::Secret) => Action::TenantSecret,
            (Self::App, Kind::Env) => Action::AppEnv,
            (Self::App, Kind::Secret) => Action::AppSecret,
        }
    }
}

/// A request to set a variable, or to delete it.
#[derive(Clone, Copy)]
pub struct Assignment<'a> {
    pub kind: Kind,
    pub name: &'a str,
    /// `None` deletes the variable.
    pub value: Option<&'a str>,
}

/// A change for the audit log, which has names only.
#[derive(Debug, PartialEq, Eq)]
struct Changed {
    before: Option<Value>,
    after: Option<Value>,
}

impl Assignment<'_> {
    /// Refuses a name or a value that breaks a rule. A variable with any name can be deleted.
    fn check(self) -> Result<(), ApiError> {
        let Some(value) = self.value else { return Ok(()) };
        let refused = |field, code: FieldCode, detail: String| {
            Err(refused_field(Code::InvalidFields, field, code, detail))
        };
        if let Some(rule) = manifest::keys::env_fault(self.name) {
            return refused("name", FieldCode::Invalid, format!("The name {rule}."));
        }
        if self.name.len() > MAX_NAME_BYTES {
            let detail = format!("The name may have {MAX_NAME_BYTES} characters.");
            return refused("name", FieldCode::TooLong, detail);
        }
        if value.len() > MAX_VALUE_BYTES {
            return refused("value", FieldCode::TooLong, "The value may have 16 KiB.".to_owned());
        }
        if value.contains('\0') {
            let detail = "The value must not contain NUL.".to_owned();
            return refused("value", FieldCode::Invalid, detail);
        }
        Ok(())
    }

    /// Changes the variables of an owner.
    fn apply(self, variables: &mut Variables, owner: Owner) -> Result<Changed, ApiError> {
        let Self { kind, name, value } = self;
        let found = variables.get(name);
        if let Some(other) = found.map(Kind::of).filter(|other| *other != kind && value.is_some()) {
            return Err(taken(name, owner, other));
        }
        let before = found.filter(|variable| Kind::of(variable) == kind);
        if value.is_none() && before.is_none() {
            let detail = format!("The {} has nothing of this name.", owner.noun());
            return Err(ApiError::new(Code::ResourceNotFound, detail));
        }
        let shown = |exists: bool| exists.then(|| json!({ "name": name }));
        let changed = Changed { before: shown(before.is_some()), after: shown(value.is_some()) };
        match value {
            Some(value) => {
                let variable = Variable { value: value.to_owned(), secret: kind == Kind::Secret };
                variables.insert(name.to_owned(), variable);
            }
            None => drop(variables.remove(name)),
        }
        let total: usize = variables.iter().map(|(name, v)| name.len() + v.value.len()).sum();
        let max = owner.max_total_bytes();
        if total > max {
            let noun = owner.noun();
            let detail = format!(
                "All variables and secrets of the {noun} together may have {} KiB.",
                max >> 10
            );
            return Err(refused_field(Code::InvalidFields, "value", FieldCode::TooLong, detail));
        }
        // A deletion only makes a record smaller.
        if value.is_some() {
            check_record(variables, owner)?;
        }
        Ok(changed)
    }
}

/// Refuses a record that is too long as JSON, which many short variables are, and control characters.
fn check_record(variables: &Variables, owner: Owner) -> Result<(), ApiError> {
    let max = owner.max_record_bytes();
    if serde_json::to_vec(variables)?.len() <= max {
        return Ok(());
    }
    let detail = format!(
        "All variables and secrets of the {} together may have {} KiB as JSON. Set fewer, or values with fewer control characters.",
        owner.noun(),
        max >> 10
    );
    Err(refused_field(Code::InvalidFields, "value", FieldCode::TooLong, detail))
}

/// A secret that became a readable variable, or the reverse, would surprise whoever set it.
fn taken(name: &str, owner: Owner, by: Kind) -> ApiError {
    let kind = match by {
        Kind::Env => "variable",
        Kind::Secret => "secret",
    };
    let noun = owner.noun();
    let detail =
        format!("The {noun} has a {kind} {name}. Delete it first, or choose another name.");
    refused_field(Code::VariableTaken, "name", Code::VariableTaken, detail)
}

/// Decrypts a record; an absent one is empty.
fn open(
    keys: &SealingKeys,
    purpose: &Purpose,
    sealed: Option<&str>,
) -> Result<Variables, ApiError> {
    let Some(text) = sealed else { return Ok(Variables::new()) };
    Ok(serde_json::from_slice(&keys.open(purpose, text)?)?)
}

/// Encrypts a record; an empty one is absent.
fn seal(
    keys: &SealingKeys,
    purpose: &Purpose,
    variables: &Variables,
) -> Result<Option<String>, ApiError> {
    if variables.is_empty() {
        return Ok(None);
    }
    Ok(Some(keys.seal(purpose, &serde_json::to_vec(variables)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNERS: [Owner; 2] = [Owner::Tenant, Owner::App];

    fn set(variables: &mut Variables, owner: Owner, name: &str, value: &str) -> bool {
        let assignment = Assignment { kind: Kind::Env, name, value: Some(value) };
        let mut next = variables.clone();
        let is_admitted = assignment.apply(&mut next, owner).is_ok();
        if is_admitted {
            *variables = next;
        }
        is_admitted
    }

    fn sealed_bytes(variables: &Variables) -> usize {
        let keys = SealingKeys::new(service::Secret::new("8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa"), None);
        seal(&keys, &Purpose::Model, variables).unwrap().unwrap_or_default().len()
    }

    /// Both records must leave room for the rest of a spec, of which the orchestrator takes 128 KiB.
    #[test]
    fn the_longest_records_fit_into_a_spec() {
        let many = |owner| {
            let mut variables = Variables::new();
            let all = (0..10_000).all(|i| set(&mut variables, owner, &format!("A{i}"), ""));
            assert!(!all, "{owner:?}");
            sealed_bytes(&variables)
        };
        assert!(OWNERS.map(many).iter().sum::<usize>() < 97 << 10);
    }

    #[test]
    fn values_are_bounded_as_they_are_sealed() {
        for owner in OWNERS {
            let mut variables = Variables::new();
            assert!(set(&mut variables, owner, "PLAIN", &"x".repeat(12 << 10)));
            assert!(!set(&mut variables, owner, "CONTROL", &"\u{1}".repeat(6 << 10)), "{owner:?}");
            assert!(
                owner == Owner::App || set(&mut variables, owner, "MORE", &"x".repeat(16 << 10))
            );
        }
    }

    #[test]
    fn a_record_that_is_too_long_can_be_made_shorter() {
        let variable = Variable { value: "\u{1}".repeat(15 << 10), secret: false };
        let mut variables = Variables::from([("A".to_owned(), variable.clone())]);
        variables.insert("B".to_owned(), Variable { value: String::new(), ..variable });
        let deletion = Assignment { kind: Kind::Env, name: "B", value: None };
        assert!(!set(&mut variables, Owner::App, "C", ""));
        deletion.apply(&mut variables, Owner::App).unwrap();
    }
}
