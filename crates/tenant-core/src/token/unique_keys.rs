//! A JSON object without repeated names. Parsers differ on which of two values they take, so a repeated name is refused.

use std::fmt;

use serde::de::{DeserializeOwned, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

#[derive(Debug)]
pub(super) struct UniqueKeyMap(Map<String, Value>);

impl UniqueKeyMap {
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn into_typed<T: DeserializeOwned>(self) -> serde_json::Result<T> {
        serde_json::from_value(Value::Object(self.0))
    }
}

impl<'de> Deserialize<'de> for UniqueKeyMap {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = UniqueKeyMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object without a repeated name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<UniqueKeyMap, A::Error> {
                let mut map = Map::new();
                while let Some((name, value)) = from.next_entry::<String, Value>()? {
                    if map.insert(name, value).is_some() {
                        return Err(A::Error::custom("a name occurs twice"));
                    }
                }
                Ok(UniqueKeyMap(map))
            }
        }

        from.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_name_is_refused() {
        let read = |text| serde_json::from_str::<UniqueKeyMap>(text);
        assert!(read(r#"{"a":1,"b":1}"#).is_ok());
        assert!(read(r#"{"a":1,"a":1}"#).is_err());
        assert!(read(r#"{"a":1,"\u0061":2}"#).is_err());
        assert!(read("[]").is_err());
    }
}
