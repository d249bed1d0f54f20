//! Reads the SQL that pg_dump writes, piece by piece, and gives the schema and its role other names.
//!
//! The text may be anybody's. Nothing in it is a command for this reader, other than the end of a statement and of rows: the server
//! alone decides what a statement may do.

mod rename;
mod tokens;

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::{memchr, memmem, memrchr};

use self::rename::starts_with_words;
use self::tokens::{Kind, token};
use crate::Fault;

pub use self::rename::Renaming;

/// The longest statement without its rows.
const MAX_STATEMENT_BYTES: usize = 16 << 20;
/// The longest statement with the new names in it.
const MAX_RENAMED_BYTES: usize = 2 * MAX_STATEMENT_BYTES;
/// A longer word is none that says what a statement does.
const MAX_KEYWORD_BYTES: usize = 32;
/// The most bytes of a row that are kept: a part of a longer row is passed on before its end arrives.
const MAX_ROW_BYTES: usize = 1 << 20;
/// The line that ends rows.
const END_OF_ROWS: &[u8] = b"\\.\n";

/// A part of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptItem {
    Statement(String),
    /// `COPY … FROM stdin`, whose rows follow.
    Copy(String),
    /// Rows in the text format of COPY. The last one may go on in the next item.
    Rows {
        bytes: Bytes,
        ends_a_row: bool,
    },
    EndOfRows,
}

pub struct ScriptReader {
    renaming: Renaming,
    buffer: BytesMut,
    state: State,
}

enum State {
    Statement(Scan),
    /// Behind the semicolon of a `COPY`.
    EndOfLine,
    Rows {
        at_line_start: bool,
    },
}

/// How far a statement was read.
#[derive(Default)]
struct Scan {
    at: usize,
    /// Where the statement begins, after blanks and comments.
    begin: Option<usize>,
    /// The words at the begin that say whether it creates a function.
    first_words: Vec<String>,
    last_words: [String; 2],
    parentheses: usize,
    /// Blocks of a function whose body is SQL, in which semicolons do not end the statement.
    blocks: usize,
}

const ROUTINE_WORDS: usize = 4;

impl ScriptReader {
    pub fn new(renaming: Renaming) -> Self {
        Self { renaming, buffer: BytesMut::new(), state: State::Statement(Scan::default()) }
    }

    /// Takes the next bytes. The items of the last ones should have been read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next item; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`Fault::Corrupt`].
    pub fn next_item(&mut self) -> Result<Option<ScriptItem>, Fault> {
        loop {
            match &mut self.state {
                State::Statement(scan) => {
                    let Some(end) = scan.advance(&self.buffer)? else {
                        let _ = self.buffer.split_to(scan.forget_blanks());
                        return Ok(None);
                    };
                    let scan = std::mem::take(scan);
                    let statement = self.buffer.split_to(end);
                    if let Some(item) = self.statement(&scan, &statement)? {
                        return Ok(Some(item));
                    }
                }
                State::EndOfLine => {
                    match self.buffer.first() {
                        None => return Ok(None),
                        Some(b'\n') => self.buffer.advance(1),
                        Some(_) => {
                            return Err(Fault::corrupt(
                                "has a schema with rows on the line of COPY",
                            ));
                        }
                    }
                    self.state = State::Rows { at_line_start: true };
                }
                State::Rows { .. } => return Ok(self.rows()),
            }
        }
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] for a statement without its end, and rows without theirs.
    pub fn finish(&self) -> Result<(), Fault> {
        let State::Statement(_) = self.state else {
            return Err(Fault::corrupt("has a schema whose rows have no end"));
        };
        let mut at = 0;
        while let Some(token) = token(&self.buffer, at, true) {
            let is_meta_command = self.buffer.get(at) == Some(&b'\\');
            at = if is_meta_command { end_of_line(&self.buffer, at) } else { token.end };
            if token.kind != Kind::Blank && !is_meta_command {
                return Err(Fault::corrupt("has a schema whose last statement has no end"));
            }
        }
        Ok(())
    }

    /// Returns `None` for a statement that says nothing about the schema.
    fn statement(&mut self, scan: &Scan, bytes: &[u8]) -> Result<Option<ScriptItem>, Fault> {
        let text =
            std::str::from_utf8(bytes.get(scan.begin.unwrap_or_default()..).unwrap_or_default());
        let text = text.map_err(|_| Fault::corrupt("has a schema that is no UTF-8"))?;
        let sql = text.trim_end_matches(';');
        // The importer chooses the settings of its session, and the schema is there.
        let is_left_out = sql.is_empty()
            || starts_with_words(sql, ["set"])
            || starts_with_words(sql, ["create", "schema", &self.renaming.from.schema]);
        if is_left_out {
            return Ok(None);
        }
        let sql = self.renaming.apply(sql, MAX_RENAMED_BYTES).ok_or_else(too_long)?;
        if scan.is_copy_from_client() {
            self.state = State::EndOfLine;
            return Ok(Some(ScriptItem::Copy(sql)));
        }
        Ok(Some(ScriptItem::Statement(sql)))
    }

    fn rows(&mut self) -> Option<ScriptItem> {
        let State::Rows { at_line_start } = self.state else { return None };
        if at_line_start && self.buffer.starts_with(END_OF_ROWS) {
            let _ = self.buffer.split_to(END_OF_ROWS.len());
            self.state = State::Statement(Scan::default());
            return Some(ScriptItem::EndOfRows);
        }
        let end = match memmem::find(&self.buffer, b"\n\\.\n") {
            Some(newline) => newline + 1,
            None => match memrchr(b'\n', &self.buffer) {
                Some(newline) => newline + 1,
                None if self.buffer.len() > MAX_ROW_BYTES => self.buffer.len(),
                None => return None,
            },
        };
        let bytes = self.buffer.split_to(end).freeze();
        let ends_a_row = bytes.ends_with(b"\n");
        self.state = State::Rows { at_line_start: ends_a_row };
        Some(ScriptItem::Rows { bytes, ends_a_row })
    }
}

impl Scan {
    /// Returns the position behind the statement; `None` when its end did not arrive.
    fn advance(&mut self, sql: &[u8]) -> Result<Option<usize>, Fault> {
        loop {
            if self.begin.is_none() && sql.get(self.at) == Some(&b'\\') {
                // For psql: `\restrict` and `\unrestrict` keep what follows from being a command for it.
                let end = end_of_line(sql, self.at);
                if sql.get(end - 1) != Some(&b'\n') {
                    return self.more_than(sql);
                }
                self.at = end;
                continue;
            }
            let Some(token) = token(sql, self.at, false) else { return self.more_than(sql) };
            let text = sql.get(self.at..token.end).unwrap_or_default();
            if token.kind != Kind::Blank {
                self.begin.get_or_insert(self.at);
            }
            self.at = token.end;
            if token.kind == Kind::Name {
                self.read_word(text);
            }
            match text {
                b"(" => self.parentheses += 1,
                b")" => self.parentheses = self.parentheses.saturating_sub(1),
                b";" if self.parentheses == 0 && self.blocks == 0 => return Ok(Some(self.at)),
                _ => {}
            }
        }
    }

    /// Asks for more bytes than these, unless they are too many.
    fn more_than(&self, sql: &[u8]) -> Result<Option<usize>, Fault> {
        let length = sql.len() - self.begin.unwrap_or(self.at);
        if length > MAX_STATEMENT_BYTES { Err(too_long()) } else { Ok(None) }
    }

    /// Returns how many bytes before the statement, or before what may begin one, are not needed any more.
    fn forget_blanks(&mut self) -> usize {
        let blanks = self.begin.unwrap_or(self.at);
        self.at -= blanks;
        self.begin = self.begin.map(|_| 0);
        blanks
    }

    fn read_word(&mut self, word: &[u8]) {
        let word = if word.len() > MAX_KEYWORD_BYTES { b"" } else { word };
        let word = String::from_utf8_lossy(word).to_ascii_lowercase();
        if self.parentheses == 0 && self.creates_a_routine() {
            match word.as_str() {
                "begin" => self.blocks += 1,
                "case" if self.blocks > 0 => self.blocks += 1,
                "end" => self.blocks = self.blocks.saturating_sub(1),
                _ => {}
            }
        }
        if self.first_words.len() < ROUTINE_WORDS {
            self.first_words.push(word.clone());
        }
        self.last_words.rotate_left(1);
        self.last_words[1] = word;
    }

    fn creates_a_routine(&self) -> bool {
        let words: Vec<&str> = self.first_words.iter().map(String::as_str).collect();
        matches!(
            words.as_slice(),
            ["create", "function" | "procedure", ..]
                | ["create", "or", "replace", "function" | "procedure", ..]
        )
    }

    fn is_copy_from_client(&self) -> bool {
        self.first_words.first().is_some_and(|word| word == "copy")
            && self.last_words == ["from", "stdin"]
    }
}

fn too_long() -> Fault {
    Fault::corrupt("has a schema with a statement of more than 16 MiB")
}

/// The position behind the line.
fn end_of_line(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    at + memchr(b'\n', rest).map_or(rest.len(), |newline| newline + 1)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
