//! Values of the API as text.

use serde_json::Value;

use super::color::printable;

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
