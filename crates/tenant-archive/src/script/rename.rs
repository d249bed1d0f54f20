//! Gives what a statement calls by the name of the exported schema the name of the new one.

use memchr::memmem;

use super::tokens::{Kind, is_word_start, token};
use crate::DatabaseFacts;

/// The old and the new names of a schema and of its role.
#[derive(Clone, Debug)]
pub struct Renaming {
    pub from: DatabaseFacts,
    pub to: DatabaseFacts,
}

/// The context of the next token, from the tokens before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Context {
    #[default]
    None,
    /// After `search_path`: `TO` or `=`, or names that are separated by commas.
    SearchPath,
    /// After `CREATE POLICY … TO`.
    PolicyRoles,
    /// After `setval(`.
    SequenceName,
}

impl Renaming {
    /// pg_dump writes the schema before every name, and a view, a default or a constraint as Postgres prints it. So a name counts that
    /// stands before a dot and not after one. In strings of which the server makes a reference, and in the bodies of functions, which
    /// are text for the server, the name counts as well. `None`: the result would be longer than `max_bytes`.
    pub(super) fn apply(&self, sql: &str, max_bytes: usize) -> Option<String> {
        let mut renamed = String::with_capacity(sql.len());
        let (mut at, mut context, mut before) = (0, Context::None, "");
        let is_policy = starts_with_words(sql, ["create", "policy"]);
        while let Some(token) = token(sql.as_bytes(), at, true) {
            let (text, rest) = (&sql[at..token.end], &sql[token.end..]);
            at = token.end;
            if token.kind == Kind::Blank {
                renamed.push_str(text);
                continue;
            }
            let new = match token.kind {
                Kind::Name | Kind::QuotedName => self.name(text, before, rest, context),
                Kind::Literal => self.literal(text, rest, context),
                Kind::DollarQuoted => Some(self.body(text, max_bytes)?),
                Kind::Blank | Kind::Other => None,
            };
            renamed.push_str(new.as_deref().unwrap_or(text));
            if renamed.len() > max_bytes {
                return None;
            }
            context = context.after(text, before, is_policy);
            before = text;
        }
        Some(renamed)
    }

    fn name(&self, text: &str, before: &str, rest: &str, context: Context) -> Option<String> {
        let Self { from, to } = self;
        let is_qualifier = rest.starts_with('.') && before != ".";
        if (is_qualifier || context == Context::SearchPath) && is_name(text, &from.schema) {
            return Some(quoted_like(text, &to.schema));
        }
        let is_role = context == Context::PolicyRoles && is_name(text, &from.user);
        is_role.then(|| quoted_like(text, &to.user))
    }

    fn literal(&self, text: &str, rest: &str, context: Context) -> Option<String> {
        let Self { from, to } = self;
        let content = text.strip_prefix('\'')?.strip_suffix('\'')?;
        if context == Context::SearchPath {
            return is_name(content, &from.schema)
                .then(|| format!("'{}'", quoted_like(content, &to.schema)));
        }
        let is_reference = context == Context::SequenceName
            || ["::reg", "::text)::reg"].iter().any(|cast| rest.starts_with(cast));
        if !is_reference {
            return None;
        }
        let (schema, name) = content.split_once('.')?;
        is_name(schema, &from.schema)
            .then(|| format!("'{}.{name}'", quoted_like(schema, &to.schema)))
    }

    /// The name as a whole word, wherever it stands: a body may hold SQL as text. A dollar sign is no part of a word here: it ends the tag
    /// of a string.
    fn body(&self, text: &str, max_bytes: usize) -> Option<String> {
        let (from, to) = (&self.from.schema, &self.to.schema);
        let (mut renamed, mut rest) = (String::with_capacity(text.len()), text);
        let is_word_part = |byte: u8| is_word_start(byte) || byte.is_ascii_digit();
        let mut before = None;
        while let Some(at) = memmem::find(rest.as_bytes(), from.as_bytes()) {
            let (left, found) = rest.split_at(at);
            let (word, right) = found.split_at(from.len());
            let begins = !left.bytes().last().or(before).is_some_and(is_word_part);
            let ends = !right.bytes().next().is_some_and(is_word_part);
            renamed.push_str(left);
            renamed.push_str(if begins && ends { to } else { word });
            if renamed.len() > max_bytes {
                return None;
            }
            before = word.bytes().last();
            rest = right;
        }
        renamed.push_str(rest);
        Some(renamed)
    }
}

impl Context {
    fn after(self, text: &str, before: &str, is_policy: bool) -> Self {
        let word = |wanted: &str| text.eq_ignore_ascii_case(wanted);
        if word("search_path") {
            return Self::SearchPath;
        }
        match self {
            Self::None if is_policy && word("to") => Self::PolicyRoles,
            Self::None if text == "(" && before.eq_ignore_ascii_case("setval") => {
                Self::SequenceName
            }
            // A list goes on with a comma, and after one.
            Self::SearchPath if matches!(text, "," | "=") || word("to") => self,
            Self::PolicyRoles if text == "," => self,
            Self::SearchPath | Self::PolicyRoles if before == "," => self,
            Self::SearchPath if before == "=" || before.eq_ignore_ascii_case("to") => self,
            Self::PolicyRoles if before.eq_ignore_ascii_case("to") => self,
            Self::None | Self::SearchPath | Self::PolicyRoles | Self::SequenceName => Self::None,
        }
    }
}

/// Whether a text is the name, with quotes or without.
fn is_name(text: &str, name: &str) -> bool {
    match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(quoted) => quoted == name,
        None => text.eq_ignore_ascii_case(name),
    }
}

fn quoted_like(text: &str, name: &str) -> String {
    if text.starts_with('"') { format!("\"{name}\"") } else { name.to_owned() }
}

pub(super) fn starts_with_words<const N: usize>(sql: &str, words: [&str; N]) -> bool {
    let mut first = sql.split_ascii_whitespace();
    words.iter().all(|word| first.next().is_some_and(|found| found.eq_ignore_ascii_case(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(sql: &str) -> String {
        let facts = |name: &str, role: &str| DatabaseFacts {
            schema: name.to_owned(),
            user: role.to_owned(),
        };
        let renaming = Renaming { from: facts("t_a", "r_a"), to: facts("t_b2", "r_b2") };
        renaming.apply(sql, 1_000).unwrap()
    }

    #[test]
    fn names_of_the_schema_are_renamed_and_nothing_else() {
        for (sql, expected) in [
            ("CREATE TABLE t_a.x (a t_a.color)", "CREATE TABLE t_b2.x (a t_b2.color)"),
            ("SELECT T_A.x, \"t_a\".y", "SELECT t_b2.x, \"t_b2\".y"),
            ("DEFAULT nextval('t_a.s'::regclass)", "DEFAULT nextval('t_b2.s'::regclass)"),
            ("nextval(('t_a.s'::text)::regclass)", "nextval(('t_b2.s'::text)::regclass)"),
            ("nextval('t_a.\"S x\"'::regclass)", "nextval('t_b2.\"S x\"'::regclass)"),
            (
                "SELECT pg_catalog.setval('t_a.s', 5, true)",
                "SELECT pg_catalog.setval('t_b2.s', 5, true)",
            ),
            ("a OPERATOR(t_a.+) b", "a OPERATOR(t_b2.+) b"),
            (
                "CREATE FUNCTION t_a.f() SET search_path TO 't_a', 'pg_temp' AS $$SELECT t_a.g('t_a')$$",
                "CREATE FUNCTION t_b2.f() SET search_path TO 't_b2', 'pg_temp' AS $$SELECT t_b2.g('t_b2')$$",
            ),
            ("SET search_path = t_a, public, t_a", "SET search_path = t_b2, public, t_b2"),
            (
                "CREATE POLICY p ON t_a.x TO r_a, r_c USING (r_a = 1)",
                "CREATE POLICY p ON t_b2.x TO r_b2, r_c USING (r_a = 1)",
            ),
            ("AS $_$t_a t_ab xt_a t_a_2 t_at_a$_$", "AS $_$t_b2 t_ab xt_a t_a_2 t_at_a$_$"),
        ] {
            assert_eq!(renamed(sql), expected);
        }
        for unchanged in [
            "DEFAULT 't_a.example'::text",
            "CREATE TYPE t_c.e AS ENUM ('t_a', 't_a.x')",
            "SELECT x.t_a.y, t_a, t_ab.c",
            "COMMENT ON TABLE t_c.x IS 'about t_a.x'",
            "CREATE POLICY p ON t_c.x TO r_c USING (a = r_a)",
            "f(to := r_a)",
            "E't_a.x'::regclass",
        ] {
            assert_eq!(renamed(unchanged), unchanged);
        }
    }
}
