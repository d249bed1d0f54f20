//! Reads a struct from a JSON object only. A derived `Deserialize` also takes an array, field by field.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};

struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer).map(Self)
    }
}

/// For a field: `#[serde(deserialize_with = "service::json_object::read")]`.
///
/// # Errors
/// When the value is not an object or does not fit `T`.
pub fn read<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct Fields<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_map(Fields(PhantomData))
}

/// Reads a whole body.
///
/// # Errors
/// When the body is not one JSON object or does not fit `T`.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice::<Object<T>>(bytes).map(|object| object.0)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        name: String,
        #[serde(default, deserialize_with = "super::read")]
        inner: Inner,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Inner {
        count: u8,
    }

    fn read_outer(text: &str) -> String {
        match super::from_slice::<Outer>(text.as_bytes()) {
            Ok(outer) => format!("{} {}", outer.name, outer.inner.count),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn an_array_is_refused_at_any_depth() {
        for (text, wanted) in [
            (r#" {"name":"a","inner":{"count":2}}"#, "a 2"),
            (r#"{"name":"a"}"#, "a 0"),
            (
                r#"["a",{"count":2}]"#,
                "invalid type: sequence, expected an object at line 1 column 0",
            ),
            (
                r#"{"name":"a","inner":[2]}"#,
                "invalid type: sequence, expected an object at line 1 column 20",
            ),
            (r#""a""#, "invalid type: string \"a\", expected an object at line 1 column 3"),
        ] {
            assert_eq!(read_outer(text), wanted, "{text}");
        }
        for bad in [r#"{"name":"a","name":"b"}"#, r#"{"name":"a","more":1}"#, r#"{"name":"a"} x"#] {
            assert!(super::from_slice::<Outer>(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
