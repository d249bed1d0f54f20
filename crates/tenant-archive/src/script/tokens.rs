//! Cuts SQL into tokens, as far as is needed to find the end of a statement and the names in it (PostgreSQL 17, §4.1).
//!
//! Strings are read as with `standard_conforming_strings`, which pg_dump sets.

use memchr::{memchr, memmem};

/// The kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Blanks, or a comment.
    Blank,
    /// A name or a keyword.
    Name,
    /// A name in double quotes.
    QuotedName,
    /// A string in single quotes, with its prefix.
    Literal,
    /// A string between dollar signs: the body of a function.
    DollarQuoted,
    /// Any other character, or a number.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// The position after the token.
    pub(super) end: usize,
}

/// Returns the token at `at`. `None`: there is none, or it may continue in bytes that did not arrive yet. With `is_whole`, no more
/// arrive, and a token without an end reaches to the end.
pub(super) fn token(sql: &[u8], at: usize, is_whole: bool) -> Option<Token> {
    let rest = sql.get(at..)?;
    let first = *rest.first()?;
    let (kind, length) = match first {
        b if is_blank(b) => (Kind::Blank, rest.iter().position(|byte| !is_blank(*byte))),
        b'-' if may_begin(rest, b"--", is_whole)? => (Kind::Blank, line(rest)),
        b'/' if may_begin(rest, b"/*", is_whole)? => (Kind::Blank, block_comment(rest)),
        b'\'' => (Kind::Literal, quoted(rest, 1, b'\'', false)),
        b'"' => (Kind::QuotedName, quoted(rest, 1, b'"', false)),
        b'$' => return dollar(rest, at, is_whole),
        b if is_word_start(b) => return word(rest, at, is_whole),
        b if b.is_ascii_digit() => {
            let is_part = |byte: u8| is_word_part(byte) || byte == b'.';
            (Kind::Other, rest.iter().position(|byte| !is_part(*byte)))
        }
        _ => (Kind::Other, Some(1)),
    };
    whole(kind, length, rest, at, is_whole)
}

fn whole(
    kind: Kind,
    length: Option<usize>,
    rest: &[u8],
    at: usize,
    is_whole: bool,
) -> Option<Token> {
    let length = length.or(is_whole.then_some(rest.len()))?;
    Some(Token { kind, end: at + length })
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'\x0b' | b'\x0c')
}

pub(super) const fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || !byte.is_ascii()
}

pub(super) const fn is_word_part(byte: u8) -> bool {
    is_word_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

/// `None`: more bytes decide.
fn may_begin(rest: &[u8], with: &[u8], is_whole: bool) -> Option<bool> {
    (rest.len() >= with.len() || is_whole).then(|| rest.starts_with(with))
}

fn line(rest: &[u8]) -> Option<usize> {
    memchr(b'\n', rest).map(|at| at + 1)
}

/// Comments of this kind nest.
fn block_comment(rest: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0, 0_usize);
    loop {
        match rest.get(at..at + 2)? {
            b"/*" => (at, depth) = (at + 2, depth + 1),
            b"*/" => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The end of a text in quotes that begins before `at`; a doubled quote belongs to the text. `None` also when the next byte may double
/// the last quote.
fn quoted(rest: &[u8], mut at: usize, quote: u8, has_escapes: bool) -> Option<usize> {
    loop {
        let byte = *rest.get(at)?;
        if byte == b'\\' && has_escapes {
            at += 2;
        } else if byte != quote {
            at += 1;
        } else if *rest.get(at + 1)? == quote {
            at += 2;
        } else {
            return Some(at + 1);
        }
    }
}

fn word(rest: &[u8], at: usize, is_whole: bool) -> Option<Token> {
    let length = rest.iter().position(|byte| !is_word_part(*byte));
    let Token { end, .. } = whole(Kind::Name, length, rest, at, is_whole)?;
    let length = end - at;
    let (text, after) = rest.split_at(length);
    let prefix = |wanted: &[u8]| text.eq_ignore_ascii_case(wanted);
    if after.first() == Some(&b'\'') && [b"e", b"b", b"x", b"n"].iter().any(|one| prefix(*one)) {
        let end = quoted(rest, length + 1, b'\'', prefix(b"e"));
        return whole(Kind::Literal, end, rest, at, is_whole);
    }
    Some(Token { kind: Kind::Name, end })
}

fn dollar(rest: &[u8], at: usize, is_whole: bool) -> Option<Token> {
    let is_tag_part = |byte: u8| is_word_part(byte) && byte != b'$';
    let second = rest.iter().skip(1).position(|byte| !is_tag_part(*byte));
    let Some(second) = second.map(|at| at + 1) else {
        return whole(Kind::Other, None, rest, at, is_whole);
    };
    let opens = rest.get(second) == Some(&b'$') && !rest.get(1).is_some_and(u8::is_ascii_digit);
    if !opens {
        return Some(Token { kind: Kind::Other, end: at + second });
    }
    let (tag, text) = rest.split_at(second + 1);
    let end = memmem::find(text, tag).map(|found| tag.len() + found + tag.len());
    whole(Kind::DollarQuoted, end, rest, at, is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(sql: &str) -> Vec<(Kind, &str)> {
        let (mut at, mut tokens) = (0, Vec::new());
        while let Some(token) = token(sql.as_bytes(), at, true) {
            tokens.push((token.kind, &sql[at..token.end]));
            at = token.end;
        }
        tokens.retain(|(kind, _)| *kind != Kind::Blank);
        tokens
    }

    #[test]
    fn tokens_are_those_of_postgres() {
        use Kind::{DollarQuoted, Literal, Name, Other, QuotedName};
        for (sql, expected) in [
            ("a.\"b\"\"c\"", vec![(Name, "a"), (Other, "."), (QuotedName, "\"b\"\"c\"")]),
            ("'it''s' x", vec![(Literal, "'it''s'"), (Name, "x")]),
            (r"'a\' x", vec![(Literal, r"'a\'"), (Name, "x")]),
            (r"E'a\'b' x", vec![(Literal, r"E'a\'b'"), (Name, "x")]),
            ("table'x'", vec![(Name, "table"), (Literal, "'x'")]),
            ("1e10'x'", vec![(Other, "1e10"), (Literal, "'x'")]),
            ("-- a;\n/* b /* ; */ c */d", vec![(Name, "d")]),
            ("a-b/c", vec![(Name, "a"), (Other, "-"), (Name, "b"), (Other, "/"), (Name, "c")]),
            (
                "$$a;$$ $x$ $$ ' $x$ $1 a$b$",
                vec![
                    (DollarQuoted, "$$a;$$"),
                    (DollarQuoted, "$x$ $$ ' $x$"),
                    (Other, "$1"),
                    (Name, "a$b$"),
                ],
            ),
            ("größe", vec![(Name, "größe")]),
            ("'open", vec![(Literal, "'open")]),
            ("$$open", vec![(DollarQuoted, "$$open")]),
            ("/* open", vec![]),
        ] {
            assert_eq!(tokens(sql), expected, "{sql}");
        }
    }

    #[test]
    fn a_token_that_may_continue_waits() {
        for sql in
            ["a", " ", "'a'", "\"a\"", "$", "$a", "$$ $", "-", "/", "-- a", "/* *", "E'", "12"]
        {
            assert_eq!(token(sql.as_bytes(), 0, false), None, "{sql}");
        }
    }
}
