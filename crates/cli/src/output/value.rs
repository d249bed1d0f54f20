//! Values of the API as text.

use serde_json::Value;

use super::color::printable;
use crate::error::CliError;

/// The text of a value in a table; `-` for nothing.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => printable(text),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Object(_)) => {
            printable(&other.to_string())
        }
    }
}

/// The value at a JSON pointer, one on a line.
pub(super) fn names(pointer: &str, items: &[Value]) -> String {
    items.iter().filter_map(|item| item.pointer(pointer)).map(|name| text(name) + "\n").collect()
}

/// The names in the value of `--json`.
pub(super) fn field_names(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The object with these fields alone; all of it without a choice.
///
/// # Errors
/// A field that the object does not have.
pub(super) fn choose(item: &Value, fields: &[String]) -> Result<Value, CliError> {
    let Some(object) = item.as_object().filter(|_| !fields.is_empty()) else {
        return Ok(item.clone());
    };
    let field = |name: &String| match object.get(name) {
        Some(value) => Ok((name.clone(), value.clone())),
        None => {
            let known: Vec<_> = object.keys().map(String::as_str).collect();
            Err(CliError::usage(format!("there is no field {name:?}"))
                .next(format!("choose from --json={}", known.join(","))))
        }
    };
    fields.iter().map(field).collect::<Result<serde_json::Map<_, _>, _>>().map(Value::Object)
}
