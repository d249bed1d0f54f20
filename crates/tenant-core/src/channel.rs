//! The envelope of a message that an agent receives over a channel. Pure.
//!
//! The sender writes the message, and the envelope's facts become attributes of the agent's prompt. A fact that could
//! break out of its attribute, or lead the agent to another address, is left out.

use protocol::history::{ChannelEnvelope, ChannelMessage, ChannelMeta, Registration};
use uuid::Uuid;

const MAX_NAME_BYTES: usize = 64;

/// Reads an id in its usual form: 32 digits in five groups, which hold neither a path nor markup.
pub fn parse_id(text: &str) -> Option<Uuid> {
    const HYPHENATED_LENGTH: usize = 36;
    Uuid::try_parse(text).ok().filter(|_| text.len() == HYPHENATED_LENGTH)
}

/// Where the registration of a peer is read. Empty for a text that is no id.
pub fn agent_card_url(peer_id: &str) -> String {
    parse_id(peer_id).map_or_else(String::new, |id| format!("/.cial/api/v1/registry/{id}"))
}

/// Makes the envelope. `peer` is the registration of the sender, if there is one.
pub fn envelope(message: ChannelMessage, peer: Option<&Registration>) -> ChannelEnvelope {
    let ChannelMessage { content, peer_id, kind, method } = message;
    let id = parse_id(&peer_id);
    let peer = peer.filter(|peer| Some(peer.workspace_id) == id);
    let meta = ChannelMeta {
        peer_id: id.map(|id| id.to_string()).unwrap_or_default(),
        kind: plain_name(kind),
        method: plain_name(method),
        agent_card_url: id.map(|_| agent_card_url(&peer_id)),
        peer_name: peer.map(|peer| without_markup(&peer.name)),
        peer_role: peer.and_then(|peer| peer.role.as_deref()).map(without_markup),
    };
    ChannelEnvelope { content, meta }
}

/// The text if it is a short name such as `message/send`, and else nothing.
fn plain_name(text: String) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/');
    match text.len() <= MAX_NAME_BYTES && text.bytes().all(is_plain) {
        true => text,
        false => String::new(),
    }
}

fn without_markup(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '<' | '>' | '&' | '"' | '\'' | '`')).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0192f0c1-2345-7abc-8def-0123456789ab";

    fn message(peer_id: &str) -> ChannelMessage {
        let text = str::to_owned;
        ChannelMessage {
            content: text("hello"),
            peer_id: text(peer_id),
            kind: text("peer_agent"),
            method: text("message/send"),
        }
    }

    fn peer() -> Registration {
        Registration {
            workspace_id: ID.parse().unwrap(),
            name: "researcher\" onclick=x".to_owned(),
            role: Some("reads <papers>".to_owned()),
            parent_id: None,
            registered_at: String::new(),
            last_seen_at: String::new(),
        }
    }

    #[test]
    fn the_facts_of_a_known_peer_are_kept_without_markup() {
        let meta = envelope(message(ID), Some(&peer())).meta;
        let url = format!("/.cial/api/v1/registry/{ID}");
        let expected = ChannelMeta {
            peer_id: ID.to_owned(),
            kind: "peer_agent".to_owned(),
            method: "message/send".to_owned(),
            agent_card_url: Some(url),
            peer_name: Some("researcher onclick=x".to_owned()),
            peer_role: Some("reads papers".to_owned()),
        };
        assert_eq!(meta, expected);
    }

    #[test]
    fn an_id_that_is_no_uuid_leaves_no_trace() {
        let without_hyphens = ID.replace('-', "");
        let urn = format!("urn:uuid:{ID}");
        let braces = format!("{{{ID}}}");
        for bad in [
            "",
            "../../foo",
            "aaa\" onclick=\"alert(1)",
            "' OR 1=1 --",
            &without_hyphens,
            &urn,
            &braces,
            &format!("{ID}/../.."),
            &format!(" {ID}"),
        ] {
            let meta = envelope(message(bad), Some(&peer())).meta;
            assert_eq!(meta.peer_id, "", "{bad}");
            assert_eq!((meta.agent_card_url, meta.peer_name, meta.peer_role), (None, None, None));
            assert_eq!(agent_card_url(bad), "", "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_fact_breaks_out_of_an_attribute(
            peer_id in "\\PC{0,80}", kind in "\\PC{0,80}", method in "\\PC{0,80}",
        ) {
            let message = ChannelMessage { content: String::new(), peer_id, kind, method };
            let meta = envelope(message, None).meta;
            for fact in [&meta.peer_id, &meta.kind, &meta.method] {
                prop_assert!(!fact.contains(['"', '<', '>', '&', '\'', ' ', ';']), "{fact}");
            }
        }
    }
}
