use proptest::prelude::*;

use super::*;
use crate::DatabaseFacts;

fn reader() -> ScriptReader {
    let facts = |name: &str| DatabaseFacts { schema: name.to_owned(), user: name.to_owned() };
    ScriptReader::new(Renaming { from: facts("t_a"), to: facts("t_b2") })
}

/// The items, with rows that were cut put together again.
fn items(script: &[u8], step: usize) -> Result<Vec<ScriptItem>, Fault> {
    let mut reader = reader();
    let mut items = Vec::new();
    for chunk in script.chunks(step) {
        reader.push(chunk);
        while let Some(item) = reader.next_item()? {
            match (items.last_mut(), item) {
                (
                    Some(ScriptItem::Rows { bytes, ends_a_row }),
                    ScriptItem::Rows { bytes: more, ends_a_row: ends },
                ) => {
                    *bytes = [bytes.as_ref(), &more].concat().into();
                    *ends_a_row = ends;
                }
                (_, item) => items.push(item),
            }
        }
    }
    reader.finish()?;
    Ok(items)
}

fn statement(sql: &str) -> ScriptItem {
    ScriptItem::Statement(sql.to_owned())
}

/// As pg_dump writes it.
const SCRIPT: &str = "--
-- PostgreSQL database dump
--

\\restrict x7Gh

-- Dumped by pg_dump version 16.10

SET statement_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);

--
-- Name: t_a; Type: SCHEMA; Schema: -; Owner: -
--

CREATE SCHEMA t_a;

CREATE FUNCTION t_a.f(a integer) RETURNS integer
    LANGUAGE plpgsql
    AS $$ BEGIN; COPY t_a.x FROM stdin;
END; $$;

CREATE FUNCTION t_a.g(x integer) RETURNS integer
    LANGUAGE sql
    BEGIN ATOMIC
 SELECT CASE WHEN (x = 1) THEN t_a.f(1) ELSE 2 END;
 SELECT 3;
END;

CREATE RULE r AS ON INSERT TO t_a.x DO INSTEAD (SELECT 1; SELECT ';');

COPY t_a.x (a, \"from stdin\") FROM stdin;
1\tt_a.x;
2\t\\\\.
\\N\t'

\\.

COPY t_a.empty (a) FROM stdin;
\\.

ALTER TABLE ONLY t_a.x ADD CONSTRAINT \"a;b\" CHECK (a <> ';');

\\unrestrict x7Gh

";

#[test]
fn a_script_is_read_whatever_its_pieces() {
    let rows = "1\tt_a.x;\n2\t\\\\.\n\\N\t'\n\n";
    let expected = vec![
        statement("SELECT pg_catalog.set_config('search_path', '', false)"),
        statement(
            "CREATE FUNCTION t_b2.f(a integer) RETURNS integer\n    LANGUAGE plpgsql\n    AS $$ BEGIN; COPY t_b2.x FROM stdin;\nEND; $$",
        ),
        statement(
            "CREATE FUNCTION t_b2.g(x integer) RETURNS integer\n    LANGUAGE sql\n    BEGIN ATOMIC\n SELECT CASE WHEN (x = 1) THEN t_b2.f(1) ELSE 2 END;\n SELECT 3;\nEND",
        ),
        statement("CREATE RULE r AS ON INSERT TO t_b2.x DO INSTEAD (SELECT 1; SELECT ';')"),
        ScriptItem::Copy("COPY t_b2.x (a, \"from stdin\") FROM stdin".to_owned()),
        ScriptItem::Rows { bytes: rows.into(), ends_a_row: true },
        ScriptItem::EndOfRows,
        ScriptItem::Copy("COPY t_b2.empty (a) FROM stdin".to_owned()),
        ScriptItem::EndOfRows,
        statement("ALTER TABLE ONLY t_b2.x ADD CONSTRAINT \"a;b\" CHECK (a <> ';')"),
    ];
    for step in [1, 2, 3, 100, usize::MAX] {
        assert_eq!(items(SCRIPT.as_bytes(), step.min(SCRIPT.len())).unwrap(), expected, "{step}");
    }
}

#[test]
fn a_script_without_its_end_is_refused() {
    for (script, why) in [
        ("SELECT 1", "has a schema whose last statement has no end"),
        ("SELECT 'a;", "has a schema whose last statement has no end"),
        ("COPY t_a.x FROM stdin;\n1\n", "has a schema whose rows have no end"),
        ("COPY t_a.x FROM stdin;", "has a schema whose rows have no end"),
        ("SELECT '\u{fffd}", "has a schema whose last statement has no end"),
    ] {
        assert_eq!(items(script.as_bytes(), 100), Err(Fault::corrupt(why)), "{script}");
    }
    assert_eq!(items(b"SELECT '\xff';", 100), Err(Fault::corrupt("has a schema that is no UTF-8")));
    let long = format!("SELECT '{}", "x".repeat(MAX_STATEMENT_BYTES));
    let fault = Fault::corrupt("has a schema with a statement of more than 16 MiB");
    assert_eq!(items(long.as_bytes(), 8 << 20), Err(fault));
}

#[test]
fn a_long_row_arrives_in_parts() {
    let mut reader = reader();
    reader.push(b"COPY t_a.x FROM stdin;\n");
    assert!(matches!(reader.next_item(), Ok(Some(ScriptItem::Copy(_)))));
    reader.push(&vec![b'x'; MAX_ROW_BYTES + 1]);
    assert!(matches!(reader.next_item(), Ok(Some(ScriptItem::Rows { ends_a_row: false, .. }))));
    // Within a row, nothing ends it.
    reader.push(b"\\.\n");
    assert!(matches!(reader.next_item(), Ok(Some(ScriptItem::Rows { ends_a_row: true, .. }))));
    reader.push(b"\\.\n");
    assert_eq!(reader.next_item(), Ok(Some(ScriptItem::EndOfRows)));
}

/// A file of some hundred KiB unpacks to any number of these.
#[test]
fn nothing_makes_the_reader_keep_more_than_a_statement() {
    const STEP: usize = 64 << 10;
    let too_long = Err("has a schema with a statement of more than 16 MiB");
    for (begin, repeated, expected) in [
        ("", "-- x\n", Ok(())),
        ("", " \n", too_long),
        ("", "\\x\n", Ok(())),
        ("", "SELECT 1;\n", Ok(())),
        ("COPY t_a.x FROM stdin;\n", "x", Ok(())),
        ("\\", "a", too_long),
        ("SELECT $$", "t_a ", too_long),
        ("SELECT ", "x ", too_long),
        ("/*", "x", too_long),
        ("COPY t_a.x FROM stdin; ", "x", Err("has a schema with rows on the line of COPY")),
    ] {
        let mut reader = reader();
        reader.push(begin.as_bytes());
        let piece = repeated.repeat(STEP / repeated.len());
        let mut read = || {
            for _ in 0..(MAX_STATEMENT_BYTES / STEP + 3) {
                reader.push(piece.as_bytes());
                while reader.next_item()?.is_some() {}
                let most = if expected.is_ok() { MAX_ROW_BYTES } else { MAX_STATEMENT_BYTES };
                assert!(reader.buffer.len() <= most + STEP, "{begin}{repeated}");
            }
            Ok::<_, Fault>(())
        };
        assert_eq!(read(), expected.map_err(Fault::corrupt), "{begin}{repeated}");
    }
}

#[test]
fn new_names_do_not_multiply_a_statement() {
    let facts = |name: &str| DatabaseFacts { schema: name.to_owned(), user: name.to_owned() };
    let long = "b".repeat(63);
    for sql in ["AS $$ a a a a a a $$", "a.x, a.x, a.x, a.x, a.x"] {
        let renaming = Renaming { from: facts("a"), to: facts(&long) };
        assert_eq!(renaming.apply(sql, 200), None);
        assert!(renaming.apply(sql, 1_000).is_some());
    }
}

proptest! {
    #[test]
    fn pieces_of_any_script_give_the_same_items(
        parts in prop::collection::vec("(;|'|\"|\\$\\$|\\$|--|/\\*|\\*/|\\\\|\n|\\(|\\)|a|E|t_a\\.x|COPY x FROM stdin;|\n\\\\\\.\n| )", 0..30),
        step in 1_usize..9,
    ) {
        let script = parts.concat();
        let whole = items(script.as_bytes(), script.len().max(1));
        prop_assert_eq!(items(script.as_bytes(), step), whole);
    }
}
