//! Validates a value against the served OpenAPI schemas. Supports only the JSON Schema keywords that they use.

use protocol::{Slug, Timestamp};
use serde_json::Value;
use uuid::Uuid;

use super::TestClient;

/// `components.schemas` as it is served.
pub(crate) struct Schemas(pub(crate) Value);

impl Schemas {
    pub(crate) async fn served(visitor: &TestClient) -> Self {
        Self(visitor.get("/api/openapi.json").await.json()["components"]["schemas"].clone())
    }

    /// Returns each violation of the named schema by `value`.
    pub(crate) fn violations(&self, name: &str, value: &Value) -> Vec<String> {
        assert!(self.0[name].is_object(), "no schema {name}");
        self.validate(&self.0[name], value, name)
    }

    fn validate(&self, schema: &Value, value: &Value, at: &str) -> Vec<String> {
        let mut violations = Vec::new();
        for (keyword, rule) in schema.as_object().unwrap() {
            let fits = match keyword.as_str() {
                "$ref" => {
                    let name = rule.as_str().unwrap().rsplit('/').next().unwrap();
                    violations.extend(self.validate(&self.0[name], value, at));
                    true
                }
                "properties" => {
                    for (name, part) in value.as_object().into_iter().flatten() {
                        let at = format!("{at}.{name}");
                        match rule.get(name) {
                            Some(schema) => violations.extend(self.validate(schema, part, &at)),
                            None => violations.push(format!("{at} is not described")),
                        }
                    }
                    true
                }
                "items" => {
                    let parts = value.as_array().into_iter().flatten();
                    violations.extend(parts.flat_map(|part| self.validate(rule, part, at)));
                    true
                }
                "oneOf" => {
                    let ways = rule.as_array().unwrap().iter();
                    ways.filter(|way| self.validate(way, value, at).is_empty()).count() == 1
                }
                "required" => {
                    texts(rule).all(|name| !value.is_object() || value.get(name).is_some())
                }
                "type" => texts(rule).any(|kind| is_of(kind, value)),
                "enum" => rule.as_array().unwrap().contains(value),
                "format" => value.as_str().is_none_or(|text| is_written(rule.as_str(), text)),
                "minimum" => value.as_i64().is_none_or(|number| number >= rule.as_i64().unwrap()),
                "maximum" => value.as_i64().is_none_or(|number| number <= rule.as_i64().unwrap()),
                "allOf" => {
                    let ways = rule.as_array().unwrap().iter();
                    violations.extend(ways.flat_map(|way| self.validate(way, value, at)));
                    true
                }
                // The only pattern is the slug's.
                "pattern" => value.as_str().is_none_or(|text| text.parse::<Slug>().is_ok()),
                "description" | "additionalProperties" | "default" => true,
                other => panic!("{at}: unsupported: {other}"),
            };
            if !fits {
                violations.push(format!("{at} is {value}, against {keyword} {rule}"));
            }
        }
        violations
    }
}

/// One text, or a list of texts.
fn texts(rule: &Value) -> impl Iterator<Item = &str> {
    let many = rule.as_array().into_iter().flatten();
    many.chain(rule.is_string().then_some(rule)).map(|text| text.as_str().unwrap())
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("unsupported: the type {other}"),
    }
}

fn is_written(format: Option<&str>, text: &str) -> bool {
    match format {
        // Formats of numbers; the type of a number is checked apart.
        Some("int32" | "int64") => true,
        Some("uuid") => text.parse::<Uuid>().is_ok(),
        Some("date-time") => text.parse::<Timestamp>().is_ok(),
        Some("uri") => text.parse::<url::Url>().is_ok(),
        other => panic!("unsupported: the format {other:?}"),
    }
}
