//! The hash chain: each entry's hash covers the entry and the hash before it, so that a changed, inserted or removed
//! entry is detected. Pure.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// A SHA-256.
pub type Hash = [u8; 32];

/// The hash before the first entry.
pub const GENESIS: Hash = [0; 32];

/// The hash of an entry: SHA-256 over the hash before it and the entry as canonical JSON.
pub fn link(previous: &Hash, entry: &Value) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update(previous);
    hasher.update(canonical(entry).as_bytes());
    hasher.finalize().into()
}

/// One text for equal values: no white space, keys in the order of their bytes. Close to RFC 8785; numbers stay as
/// serde_json writes them, because entries hold integers and the decimals that people entered.
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(&mut text, value);
    text
}

fn write_canonical(text: &mut String, value: &Value) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| name.as_bytes());
            text.push('{');
            for (index, (name, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                write_canonical(text, value);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_canonical(text, item);
            }
            text.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            text.push_str(&value.to_string());
        }
    }
}

/// The first place at which the log is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Break {
    #[error("entry {0} is missing")]
    Missing(i64),
    #[error("entry {0} was changed, or an entry before it")]
    Changed(i64),
    #[error("the log ends at entry {last} although entry {head} was written")]
    Truncated { last: i64, head: i64 },
    #[error("the head of the log does not have the hash of entry {0}")]
    WrongHead(i64),
}

/// Follows a log from its first entry.
#[derive(Debug)]
pub struct Verifier {
    last: i64,
    hash: Hash,
}

impl Default for Verifier {
    fn default() -> Self {
        Self { last: 0, hash: GENESIS }
    }
}

impl Verifier {
    /// Checks the next entry with its stored hash.
    ///
    /// # Errors
    /// The break at this entry.
    pub fn check(&mut self, id: i64, entry: &Value, stored: &[u8]) -> Result<(), Break> {
        if id != self.last + 1 {
            return Err(Break::Missing(self.last + 1));
        }
        let hash = link(&self.hash, entry);
        if hash != stored {
            return Err(Break::Changed(id));
        }
        (self.last, self.hash) = (id, hash);
        Ok(())
    }

    /// Compares the last entry with the recorded head of the log.
    ///
    /// # Errors
    /// [`Break::Truncated`], [`Break::WrongHead`].
    pub fn finish(self, head: i64, head_hash: &[u8]) -> Result<Verified, Break> {
        if self.last != head {
            return Err(Break::Truncated { last: self.last, head });
        }
        if self.hash != head_hash {
            return Err(Break::WrongHead(head));
        }
        Ok(Verified { entries: self.last, hash: self.hash })
    }
}

/// A log without a break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    pub entries: i64,
    /// The hash of the last entry. A copy kept elsewhere proves that the log was not rewritten.
    pub hash: Hash,
}

/// A hash in hex.
pub fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn log(count: i64) -> Vec<(i64, Value, Hash)> {
        let mut previous = GENESIS;
        (1..=count)
            .map(|id| {
                let entry = json!({ "id": id, "action": "tenant.create", "after": { "b": 1, "a": [true, null] } });
                previous = link(&previous, &entry);
                (id, entry, previous)
            })
            .collect()
    }

    fn verify(log: &[(i64, Value, Hash)], head: &(i64, Value, Hash)) -> Result<i64, Break> {
        let mut verifier = Verifier::default();
        for (id, entry, hash) in log {
            verifier.check(*id, entry, hash)?;
        }
        verifier.finish(head.0, &head.2).map(|verified| verified.entries)
    }

    #[test]
    fn every_kind_of_tampering_shows_at_its_place() {
        let log = log(5);
        let head = log[4].clone();
        assert_eq!(verify(&log, &head), Ok(5));
        let changed = |change: fn(&mut Vec<(i64, Value, Hash)>)| {
            let mut copy = log.clone();
            change(&mut copy);
            verify(&copy, &head).unwrap_err()
        };
        assert_eq!(changed(|log| log[2].1["action"] = json!("tenant.delete")), Break::Changed(3));
        assert_eq!(changed(|log| drop(log.remove(1))), Break::Missing(2));
        assert_eq!(changed(|log| drop(log.pop())), Break::Truncated { last: 4, head: 5 });
        assert_eq!(changed(|log| log.swap(1, 2)), Break::Missing(2));
        assert_eq!(changed(Vec::clear), Break::Truncated { last: 0, head: 5 });
        // A change with a hash to match breaks at the next entry.
        assert_eq!(
            changed(|log| {
                log[2].1["action"] = json!("tenant.delete");
                log[2].2 = link(&log[1].2, &log[2].1);
            }),
            Break::Changed(4)
        );
        assert_eq!(
            changed(|log| {
                log[4].1["action"] = json!("tenant.delete");
                log[4].2 = link(&log[3].2, &log[4].1);
            }),
            Break::WrongHead(5)
        );
    }

    #[test]
    fn canonical_json_is_one_text() {
        let entry = json!({ "b": { "z": 1, "a": [1, "x\"y", null] }, "a": true, "é": 0.5 });
        insta::assert_snapshot!(canonical(&entry), @r#"{"a":true,"b":{"a":[1,"x\"y",null],"z":1},"é":0.5}"#);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((".{0,4}", inner), 0..4).prop_map(|fields| Value::from(
                    fields.into_iter().collect::<serde_json::Map<_, _>>()
                )),
            ]
        })
    }

    fn reversed(value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                let back = fields.iter().rev().map(|(name, value)| (name.clone(), reversed(value)));
                Value::from(back.collect::<serde_json::Map<_, _>>())
            }
            Value::Array(items) => items.iter().map(reversed).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
        }
    }

    proptest! {
        #[test]
        fn canonical_json_ignores_the_order_of_keys_and_keeps_all_else(value in value()) {
            let text = canonical(&value);
            prop_assert_eq!(&canonical(&reversed(&value)), &text);
            prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        }
    }
}
