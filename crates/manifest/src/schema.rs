//! The JSON Schema of a manifest, for editors.

use serde_json::{Map, Value, json};

use crate::keys::{KEYS, Key, Kind};
use crate::{
    CHAT_MODEL, LOWEST_PORT, MAX_HOOK_SECONDS, MAX_PUBLIC_PATHS, MAX_SECRETS, RESERVED_PORT,
};

/// The schema as text, with a line break at its end.
pub fn text() -> String {
    format!("{:#}\n", schema())
}

fn schema() -> Value {
    let mut properties = Map::new();
    for key in KEYS {
        match key.name.split_once('.') {
            None => drop(properties.insert(key.name.to_owned(), value_schema(key))),
            Some((table, name)) => {
                let own = properties.entry(table).or_insert_with(
                    || json!({ "type": "object", "additionalProperties": false, "properties": {} }),
                );
                own["properties"][name] = value_schema(key);
            }
        }
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "cial.toml",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    })
}

fn value_schema(key: &Key) -> Value {
    let mut schema = match key.kind {
        Kind::Command => json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 }),
        Kind::Port => json!({
            "type": "integer", "minimum": LOWEST_PORT, "maximum": u16::MAX, "not": { "const": RESERVED_PORT },
        }),
        Kind::Path => json!({ "type": "string", "pattern": "^/[!-~]*$" }),
        Kind::Chat => json!({ "type": "string", "pattern": format!("^({CHAT_MODEL}|/[!-~]*)$") }),
        Kind::PublicPaths => json!({
            "type": "array", "items": { "type": "string", "pattern": "^/[!-~]*$" }, "maxItems": MAX_PUBLIC_PATHS,
        }),
        Kind::Seconds => {
            json!({ "type": "integer", "minimum": 1, "maximum": MAX_HOOK_SECONDS })
        }
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Variables => json!({
            "type": "object",
            "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" },
            "additionalProperties": { "type": "string" },
        }),
        Kind::Names => json!({
            "type": "array",
            "items": { "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" },
            "maxItems": MAX_SECRETS,
            "uniqueItems": true,
        }),
    };
    schema["description"] = key.about.into();
    schema
}
