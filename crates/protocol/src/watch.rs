//! List, then watch: a snapshot with a revision, then deltas, heartbeats, and a resync on any gap.
//!
//! On the wire: one JSON object per line (`application/x-ndjson`). The first line is always a snapshot.
//! A delta names the revision that it follows. A reader with another revision drops the stream and lists again.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A writer sends a line at least this often. A reader without a line for three intervals lists again.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// An item that is listed and watched under a key.
pub trait Keyed {
    type Key: Clone + Eq + Hash;

    fn key(&self) -> Self::Key;
}

/// One line of a watch. A delta carries the whole item, so a reader never merges fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "snake_case",
    bound(
        serialize = "T: Serialize, T::Key: Serialize",
        deserialize = "T: Deserialize<'de>, T::Key: Deserialize<'de>"
    )
)]
pub enum Message<T: Keyed> {
    Snapshot { revision: u64, items: Vec<T> },
    Changed { follows: u64, revision: u64, item: T },
    Gone { follows: u64, revision: u64, key: T::Key },
    Heartbeat { revision: u64 },
}

/// A delta that does not follow the reader's revision. The reader must list again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub held: Option<u64>,
    pub offered: u64,
}

/// A reader's copy of the watched set.
#[derive(Clone, Debug)]
pub struct Replica<T: Keyed> {
    revision: Option<u64>,
    items: HashMap<T::Key, T>,
}

impl<T: Keyed> Default for Replica<T> {
    fn default() -> Self {
        Self { revision: None, items: HashMap::new() }
    }
}

impl<T: Keyed> Replica<T> {
    /// `None` before the first snapshot.
    pub fn revision(&self) -> Option<u64> {
        self.revision
    }

    pub fn items(&self) -> &HashMap<T::Key, T> {
        &self.items
    }

    /// Applies one message.
    ///
    /// # Errors
    /// [`Gap`]: the reader must drop the stream and list again.
    pub fn take(&mut self, message: Message<T>) -> Result<(), Gap> {
        match message {
            Message::Snapshot { revision, items } => {
                self.items = items.into_iter().map(|item| (item.key(), item)).collect();
                self.revision = Some(revision);
            }
            Message::Changed { follows, revision, item } => {
                self.follow(follows, revision)?;
                self.items.insert(item.key(), item);
            }
            Message::Gone { follows, revision, key } => {
                self.follow(follows, revision)?;
                self.items.remove(&key);
            }
            Message::Heartbeat { revision } => self.follow(revision, revision)?,
        }
        Ok(())
    }

    fn follow(&mut self, follows: u64, revision: u64) -> Result<(), Gap> {
        if self.revision != Some(follows) {
            return Err(Gap { held: self.revision, offered: follows });
        }
        self.revision = Some(revision);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Item {
        name: String,
        value: u32,
    }

    impl Keyed for Item {
        type Key = String;

        fn key(&self) -> String {
            self.name.clone()
        }
    }

    fn item(name: &str, value: u32) -> Item {
        Item { name: name.into(), value }
    }

    #[test]
    fn deltas_follow_each_other_and_a_gap_is_an_error() {
        let mut held = Replica::default();
        assert!(held.take(Message::Heartbeat { revision: 3 }).is_err());
        held.take(Message::Snapshot { revision: 3, items: vec![item("a", 1)] }).unwrap();
        held.take(Message::Changed { follows: 3, revision: 4, item: item("b", 2) }).unwrap();
        held.take(Message::Gone { follows: 4, revision: 7, key: "a".into() }).unwrap();
        held.take(Message::Heartbeat { revision: 7 }).unwrap();
        assert_eq!(held.items().len(), 1);
        let gap = held.take(Message::Changed { follows: 8, revision: 9, item: item("c", 3) });
        assert_eq!(gap, Err(Gap { held: Some(7), offered: 8 }));
        assert!(!held.items().contains_key("c"));
    }

    #[test]
    fn the_wire_form() {
        let line = serde_json::to_string(&Message::Changed {
            follows: 1,
            revision: 2,
            item: item("a", 1),
        });
        insta::assert_snapshot!(line.unwrap(), @r#"{"changed":{"follows":1,"revision":2,"item":{"name":"a","value":1}}}"#);
    }
}
