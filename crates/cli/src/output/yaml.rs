//! Values of the API as YAML 1.2: blocks for objects and lists, strings as in JSON.
//!
//! JSON is YAML, so every scalar is written as JSON; only a word that no YAML reader takes for anything else is plain.

use serde_json::Value;

/// One document.
pub(super) fn to_text(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    text
}

/// Writes a value whose first line begins where the writer stands, with a line break at its end.
fn write(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (at, (key, value)) in fields.iter().enumerate() {
                if at > 0 {
                    indent(depth, text);
                }
                text.push_str(&scalar(key));
                text.push(':');
                let is_block = matches!(value, Value::Object(own) if !own.is_empty())
                    || matches!(value, Value::Array(own) if !own.is_empty());
                if is_block {
                    text.push('\n');
                    indent(depth + 1, text);
                    write(value, depth + 1, text);
                } else {
                    text.push(' ');
                    write(value, depth, text);
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    indent(depth, text);
                }
                text.push_str("- ");
                write(item, depth + 1, text);
            }
        }
        Value::String(string) => {
            text.push_str(&scalar(string));
            text.push('\n');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            text.push_str(&value.to_string());
            text.push('\n');
        }
    }
}

fn indent(depth: usize, text: &mut String) {
    text.push_str(&"  ".repeat(depth));
}

fn scalar(text: &str) -> String {
    let starts_plain = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let is_plain =
        starts_plain && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
    // YAML 1.1 readers take these words for booleans and for nothing.
    let word = text.to_ascii_lowercase();
    let has_meaning = matches!(
        word.as_str(),
        "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null"
    );
    if is_plain && !has_meaning { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn blocks_are_indented_and_doubtful_words_quoted() {
        let value = json!([
            { "slug": "acme", "limits": { "pids": 512, "cpu": 1.5 }, "because": ["a", ["b"]], "none": [], "empty": {} },
            { "name": "yes", "at": "2026-11-29T12:00:00Z", "text": "a: b\n\"c\" # d", "nothing": null, "is": true },
            [], "-", "1e3", "~",
        ]);
        insta::assert_snapshot!(to_text(&value), @r##"
        - slug: acme
          limits:
            pids: 512
            cpu: 1.5
          because:
            - a
            - - b
          none: []
          empty: {}
        - name: "yes"
          at: "2026-11-29T12:00:00Z"
          text: "a: b\n\"c\" # d"
          nothing: null
          is: true
        - []
        - "-"
        - "1e3"
        - "~"
        "##);
    }
}
