//! The lines of a watch of routes, as the router gets them from app-api.

use std::collections::HashMap;

use protocol::TenantId;
use protocol::routes::Route;
use protocol::watch::{Message, Replica};

/// Reads the bytes as the lines of a watch, and keeps a replica by them.
///
/// # Panics
/// A message reads back as another one, a gap changes the replica, or the replica is not what the messages say.
pub fn watch(bytes: &[u8]) {
    let mut replica = Replica::<Route>::default();
    let (mut revision, mut expected) = (None, HashMap::<TenantId, Route>::new());
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(message) = serde_json::from_slice::<Message<Route>>(line) else { break };
        let written = serde_json::to_vec(&message).expect("a message is JSON");
        assert_eq!(serde_json::from_slice::<Message<Route>>(&written).ok(), Some(message.clone()));
        let follows = match &message {
            Message::Snapshot { .. } => revision,
            Message::Changed { follows, .. } | Message::Gone { follows, .. } => Some(*follows),
            Message::Heartbeat { revision } => Some(*revision),
        };
        let is_taken = replica.take(message.clone()).is_ok();
        assert_eq!(is_taken, follows == revision);
        if is_taken {
            match message {
                Message::Snapshot { revision: at, items } => {
                    revision = Some(at);
                    expected = items.into_iter().map(|item| (item.tenant, item)).collect();
                }
                Message::Changed { revision: at, item, .. } => {
                    revision = Some(at);
                    expected.insert(item.tenant, item);
                }
                Message::Gone { revision: at, key, .. } => {
                    revision = Some(at);
                    expected.remove(&key);
                }
                Message::Heartbeat { .. } => {}
            }
        }
        assert_eq!((replica.revision(), replica.items()), (revision, &expected));
    }
}
