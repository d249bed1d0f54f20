//! The context that the model receives: the latest messages of a conversation, within bounds. Pure.

use protocol::history::Author;
use protocol::model::{ModelMessage, ModelRole};

use crate::history::conversations::Turn;

/// The most messages before the new one.
pub(super) const MAX_CONTEXT_MESSAGES: u32 = 40;
/// The most bytes of their texts.
const MAX_CONTEXT_BYTES: usize = 64 << 10;

/// The conversation with its new message, the oldest message first. `earlier` begins with the latest.
///
/// Some models insist on a conversation that begins with its user and alternates. Where a reply failed, two messages of a user
/// follow each other: they become one.
pub(super) fn conversation(earlier: Vec<Turn>, text: String) -> Vec<ModelMessage> {
    let mut bytes = 0;
    let mut turns: Vec<_> = earlier
        .into_iter()
        .take(MAX_CONTEXT_MESSAGES as usize)
        .take_while(|turn| {
            bytes += turn.text.len();
            bytes <= MAX_CONTEXT_BYTES
        })
        .filter(|turn| !turn.text.trim().is_empty())
        .collect();
    turns.reverse();
    turns.push(Turn { author: Author::User, text });
    let mut messages: Vec<ModelMessage> = Vec::new();
    for Turn { author, text } in turns {
        let role = match author {
            Author::User => ModelRole::User,
            Author::App => ModelRole::Assistant,
        };
        match messages.last_mut() {
            None if role == ModelRole::Assistant => {}
            Some(last) if last.role == role => {
                last.content.push_str("\n\n");
                last.content.push_str(&text);
            }
            Some(_) | None => messages.push(ModelMessage { role, content: text }),
        }
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(author: Author, text: &str) -> Turn {
        Turn { author, text: text.to_owned() }
    }

    /// The conversation as text, of turns that begin with the oldest.
    fn read(turns: Vec<Turn>) -> String {
        let turns = turns.into_iter().rev().collect();
        let line = |message: ModelMessage| format!("{:?} {}", message.role, message.content);
        let lines: Vec<_> = conversation(turns, "now".to_owned()).into_iter().map(line).collect();
        lines.join(" | ")
    }

    #[test]
    fn a_conversation_begins_with_its_user_and_alternates() {
        let (user, app) = (|text| turn(Author::User, text), |text| turn(Author::App, text));
        for (turns, expected) in [
            (vec![], "User now"),
            (vec![user("a"), app("b")], "User a | Assistant b | User now"),
            (vec![app("cut"), user("a"), app("b")], "User a | Assistant b | User now"),
            (vec![user("a"), app(" ")], "User a\n\nnow"),
            (vec![user("a"), app("b"), app("c")], "User a | Assistant b\n\nc | User now"),
        ] {
            assert_eq!(read(turns), expected);
        }
    }

    #[test]
    fn the_latest_messages_count_within_bounds_of_number_and_size() {
        let pair = |number: usize| {
            [turn(Author::User, &format!("q{number}")), turn(Author::App, &format!("r{number}"))]
        };
        let many = read((0..100).flat_map(pair).collect());
        assert!(many.starts_with("User q80 | Assistant r80"), "{many}");
        let large = "x".repeat(MAX_CONTEXT_BYTES - 1);
        let turns =
            vec![turn(Author::User, "old"), turn(Author::User, &large), turn(Author::App, "r")];
        assert_eq!(read(turns), format!("User {large} | Assistant r | User now"));
        let larger =
            vec![turn(Author::User, "q"), turn(Author::App, &"x".repeat(MAX_CONTEXT_BYTES + 1))];
        assert_eq!(read(larger), "User now");
    }
}
