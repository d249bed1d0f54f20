//! Conversations with the tenant's app, their messages, and the summaries of both.

use protocol::Timestamp;
use protocol::history::{Author, Conversation, Message, Page};
use protocol::summaries::{ConversationSummary, SummaryReport};
use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

use super::Millis;
use super::page::{PageRequest, Position};
use crate::rfc3339;

/// A message that is to be stored.
#[derive(Clone, Debug)]
pub struct NewMessage {
    pub author: Author,
    /// The person who wrote the message, or to whom the app replies.
    pub user_id: String,
    pub text: String,
    pub tokens: u32,
    pub is_complete: bool,
}

/// Begins a conversation.
///
/// # Errors
/// When the database fails.
pub fn begin(connection: &Connection, user_id: &str, now: Millis) -> rusqlite::Result<Uuid> {
    let id = Uuid::new_v4();
    let insert = "INSERT INTO conversations (id, user_id, created_at) VALUES (?, ?, ?)";
    connection.execute(insert, params![id, user_id, now])?;
    Ok(id)
}

/// Adds a message, counts it in its person's summary, and returns its id. `None` when there is no such conversation.
///
/// # Errors
/// When the database fails.
pub fn append(
    connection: &Connection,
    conversation: Uuid,
    message: &NewMessage,
    now: Millis,
) -> rusqlite::Result<Option<i64>> {
    let Some(seq) = number(connection, conversation)? else { return Ok(None) };
    let NewMessage { author, user_id, text, tokens, is_complete } = message;
    connection.execute(
        "INSERT INTO messages (conversation, author, user_id, text, tokens, is_complete, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
        params![seq, author.as_str(), user_id, text, tokens, is_complete, now],
    )?;
    let id = connection.last_insert_rowid();
    connection.execute(
        "INSERT INTO summaries (conversation, user_id, messages, tokens, last_activity_at, position)
         VALUES (?1, ?2, 1, ?3, ?4, ?5)
         ON CONFLICT (conversation, user_id) DO UPDATE SET messages = messages + 1, tokens = tokens + ?3,
         last_activity_at = max(last_activity_at, ?4), position = ?5",
        params![seq, user_id, tokens, now, id],
    )?;
    Ok(Some(id))
}

/// # Errors
/// When the database fails.
pub fn list(
    connection: &Connection,
    request: &PageRequest,
) -> rusqlite::Result<Page<Conversation>> {
    let mut query = connection.prepare(
        "SELECT created_at, seq, id, user_id FROM conversations
         WHERE (created_at, seq) < (?, ?) ORDER BY created_at DESC, seq DESC LIMIT ?",
    )?;
    let Position { created_at, number } = request.before;
    let rows = query.query_map(params![created_at, number, request.row_count()], |row| {
        let position = Position { created_at: row.get(0)?, number: row.get(1)? };
        let created_at = rfc3339(position.created_at);
        Ok((position, Conversation { id: row.get(2)?, user_id: row.get(3)?, created_at }))
    })?;
    Ok(request.page(rows.collect::<Result<_, _>>()?))
}

/// The messages of a conversation. `None` when there is no such conversation.
///
/// # Errors
/// When the database fails.
pub fn messages(
    connection: &Connection,
    conversation: Uuid,
    request: &PageRequest,
) -> rusqlite::Result<Option<Page<Message>>> {
    let Some(seq) = number(connection, conversation)? else { return Ok(None) };
    let mut query = connection.prepare(
        "SELECT created_at, id, author, user_id, text, tokens, is_complete FROM messages
         WHERE conversation = ? AND (created_at, id) < (?, ?) ORDER BY created_at DESC, id DESC LIMIT ?",
    )?;
    let Position { created_at, number } = request.before;
    let rows = query.query_map(params![seq, created_at, number, request.row_count()], |row| {
        let position = Position { created_at: row.get(0)?, number: row.get(1)? };
        let message = Message {
            id: position.number,
            author: author(&row.get::<_, String>(2)?),
            user_id: row.get(3)?,
            text: row.get(4)?,
            tokens: row.get(5)?,
            is_complete: row.get(6)?,
            created_at: rfc3339(position.created_at),
        };
        Ok((position, message))
    })?;
    Ok(Some(request.page(rows.collect::<Result<_, _>>()?)))
}

/// A message as the model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    pub author: Author,
    pub text: String,
}

/// The latest messages of a conversation, the latest first; none of a conversation that does not exist.
///
/// # Errors
/// When the database fails.
pub fn latest_turns(
    connection: &Connection,
    conversation: Uuid,
    limit: u32,
) -> rusqlite::Result<Vec<Turn>> {
    let Some(seq) = number(connection, conversation)? else { return Ok(Vec::new()) };
    let mut query = connection.prepare(
        "SELECT author, text FROM messages WHERE conversation = ? ORDER BY created_at DESC, id DESC LIMIT ?",
    )?;
    let rows = query.query_map(params![seq, limit], |row| {
        Ok(Turn { author: author(&row.get::<_, String>(0)?), text: row.get(1)? })
    })?;
    rows.collect()
}

fn author(name: &str) -> Author {
    if name == Author::User.as_str() { Author::User } else { Author::App }
}

/// The summaries that changed after `position`, at most `limit`. A person who is no UUID has none: the control plane knows
/// people by theirs.
///
/// # Errors
/// When the database fails.
pub fn summaries_after(
    connection: &Connection,
    position: i64,
    limit: u32,
) -> rusqlite::Result<SummaryReport> {
    // The caller had the reports of a history that was put aside: the new one counts from the beginning.
    let newest = "SELECT coalesce(max(position), 0) FROM summaries";
    let newest: i64 = connection.query_row(newest, [], |row| row.get(0))?;
    let position = if position > newest { 0 } else { position };
    let mut query = connection.prepare(
        "SELECT position, summaries.user_id, id, messages, summaries.tokens, last_activity_at
         FROM summaries JOIN conversations ON seq = conversation
         WHERE position > ? ORDER BY position LIMIT ?",
    )?;
    let mut rows = query.query(params![position, limit])?;
    let mut report = SummaryReport { summaries: Vec::new(), position };
    while let Some(row) = rows.next()? {
        report.position = row.get(0)?;
        let Ok(user_id) = row.get::<_, String>(1)?.parse() else { continue };
        let last_activity_at = Timestamp::from_timestamp_millis(row.get(5)?).unwrap_or_default();
        report.summaries.push(ConversationSummary {
            user_id,
            conversation: row.get(2)?,
            messages: count(row.get(3)?),
            tokens: count(row.get(4)?),
            last_activity_at,
        });
    }
    Ok(report)
}

/// SQLite has signed numbers only.
fn count(stored: i64) -> u64 {
    stored.try_into().unwrap_or_default()
}

fn number(connection: &Connection, conversation: Uuid) -> rusqlite::Result<Option<i64>> {
    let query = "SELECT seq FROM conversations WHERE id = ?";
    connection.query_row(query, [conversation], |row| row.get(0)).optional()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::migrations::in_memory as database;

    fn message(author: Author, user_id: &str, text: &str, tokens: u32) -> NewMessage {
        let (user_id, text) = (user_id.to_owned(), text.to_owned());
        NewMessage { author, user_id, text, tokens, is_complete: true }
    }

    #[test]
    fn messages_belong_to_their_conversation_and_come_newest_first() {
        let connection = database();
        let begin = |now| begin(&connection, "ann", now).unwrap();
        let (one, two) = (begin(1), begin(2));
        let add = |conversation, text: &str| {
            append(&connection, conversation, &message(Author::User, "ann", text, 0), 5).unwrap()
        };
        for text in ["a", "b", "c"] {
            assert!(add(one, text).is_some());
        }
        assert!(add(two, "other").is_some());
        assert_eq!(add(Uuid::nil(), "nowhere"), None);

        let (mut read, mut cursor) = (Vec::new(), None);
        loop {
            let request = PageRequest::new(Some(2), None, cursor);
            let page = messages(&connection, one, &request).unwrap().unwrap();
            read.extend(page.items.into_iter().map(|message| message.text));
            let Some(next) = page.next else { break };
            cursor = Position::from_cursor(&next);
        }
        assert_eq!(read, ["c", "b", "a"]);
        let all = PageRequest::new(None, None, None);
        assert_eq!(messages(&connection, Uuid::nil(), &all).unwrap(), None);
        let listed = list(&connection, &all).unwrap().items.into_iter().map(|c| c.id);
        assert_eq!(listed.collect::<Vec<_>>(), [two, one]);
    }

    #[test]
    fn each_person_of_a_conversation_has_one_summary() {
        let connection = database();
        let talk = begin(&connection, "ann", 1).unwrap();
        for (author, user, tokens, now) in [
            (Author::User, "ann", 0, 10),
            (Author::App, "ann", 7, 30),
            (Author::User, "bob", 0, 40),
            // The clock was set back.
            (Author::App, "ann", 5, 20),
        ] {
            append(&connection, talk, &message(author, user, "x", tokens), now).unwrap();
        }
        let mut query = connection
            .prepare("SELECT user_id, messages, tokens, last_activity_at, position FROM summaries ORDER BY position")
            .unwrap();
        let rows = query.query_map([], |row| {
            Ok((
                row.get::<_, String>(0)?,
                [row.get(1)?, row.get(2)?, row.get(3)?, row.get::<_, i64>(4)?],
            ))
        });
        let rows: Vec<_> = rows.unwrap().map(Result::unwrap).collect();
        assert_eq!(rows, [("bob".to_owned(), [1, 0, 40, 3]), ("ann".to_owned(), [3, 12, 30, 4])]);
    }
}
