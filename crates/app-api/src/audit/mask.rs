//! Secrets in the fields of an entry are masked: the log is read by more people than may know them. Pure.

use serde_json::{Map, Value};

const MASK: &str = "***";

/// Parts of field names whose values are secrets.
const SECRET_NAMES: [&str; 7] =
    ["password", "secret", "token", "key_hash", "authorization", "cookie", "credential"];

/// Replaces the value of each field with a secret's name, at any depth. The values of `env` are all masked: an
/// environment often holds secrets under names of its own.
pub fn mask(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| {
                let value = match (name.as_str(), value) {
                    ("env", Value::Object(vars)) => Value::from(
                        vars.into_iter().map(|(name, _)| (name, masked())).collect::<Map<_, _>>(),
                    ),
                    (name, value) if is_secret(name) && !value.is_null() => masked_of(value),
                    (_, value) => mask(value),
                };
                (name, value)
            })
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items.into_iter().map(mask).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_NAMES.iter().any(|part| name.contains(part))
}

fn masked() -> Value {
    Value::from(MASK)
}

/// A flag such as `has_password` is no secret.
fn masked_of(value: Value) -> Value {
    match value {
        Value::Bool(_) => value,
        Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            masked()
        }
    }
}

/// Returns the fields of two records that differ, from either side. Values that are no objects are returned whole.
pub fn differing(before: Value, after: Value) -> (Value, Value) {
    match (before, after) {
        (Value::Object(mut before), Value::Object(mut after)) => {
            let same: Vec<String> = before
                .iter()
                .filter(|(name, value)| after.get(name.as_str()) == Some(value))
                .map(|(name, _)| name.clone())
                .collect();
            for name in same {
                before.shift_remove(&name);
                after.shift_remove(&name);
            }
            (before.into(), after.into())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_masked_at_any_depth() {
        let entry = json!({
            "name": "Acme", "password_hash": "$argon2", "Token": 7, "list": [{ "client_secret": ["x"] }],
            "env": { "DATABASE_URL": "postgres://u:p@h" }, "has_password": true, "secret": null,
        });
        assert_eq!(
            mask(entry),
            json!({
                "name": "Acme", "password_hash": "***", "Token": "***", "list": [{ "client_secret": "***" }],
                "env": { "DATABASE_URL": "***" }, "has_password": true, "secret": null,
            })
        );
    }

    #[test]
    fn only_differing_fields_remain() {
        let (before, after) =
            differing(json!({ "a": 1, "b": 2, "gone": 3 }), json!({ "a": 1, "b": 4, "new": 5 }));
        assert_eq!(before, json!({ "b": 2, "gone": 3 }));
        assert_eq!(after, json!({ "b": 4, "new": 5 }));
        assert_eq!(differing(Value::Null, json!({ "a": 1 })), (Value::Null, json!({ "a": 1 })));
    }
}
