//! Parts of queries about rows that a tenant can write. What is out of bounds never leaves the server.

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::pg::{Pg, PgValue};
use diesel::sql_types::{Jsonb, Nullable};
use serde_json::Value;

/// JSON of a tenant. One that cannot be read, such as a number out of range, does not keep the rest of its row from being read.
#[derive(Clone, Debug, PartialEq, Eq, FromSqlRow)]
pub(super) enum TenantJson {
    Read(Option<Value>),
    Unreadable,
}

impl FromSql<Nullable<Jsonb>, Pg> for TenantJson {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let read = <Value as FromSql<Jsonb, Pg>>::from_sql(value);
        Ok(read.map_or(Self::Unreadable, |value| Self::Read(Some(value))))
    }

    fn from_nullable_sql(value: Option<PgValue<'_>>) -> deserialize::Result<Self> {
        value.map_or(Ok(Self::Read(None)), Self::from_sql)
    }
}

impl From<TenantJson> for Option<Value> {
    fn from(json: TenantJson) -> Self {
        match json {
            TenantJson::Read(value) => value,
            TenantJson::Unreadable => None,
        }
    }
}

/// The largest definition of a workflow, and the largest context of an execution.
pub const MAX_DEFINITION_BYTES: usize = 256 << 10;
/// The largest result of a task, as Postgres prints it: with more spaces than the task wrote.
pub const MAX_OUTPUT_BYTES: usize = 2 * protocol::tasks::MAX_RESULT_BYTES;

/// A JSON column that reads as null when it is too large.
pub(super) fn bounded_json(column: &str, max_bytes: usize) -> String {
    format!(
        "CASE WHEN pg_catalog.octet_length({column}::text) <= {max_bytes} THEN {column} END AS {column}"
    )
}

/// The length of a value as Postgres prints it: blanks stand after commas and colons, and numbers have no exponents.
pub fn printed_len(value: &Value) -> usize {
    let text_len = |text: &str| Value::from(text).to_string().len();
    let of_list = |count: usize, lengths: usize| 2 + 2 * count.saturating_sub(1) + lengths;
    match value {
        Value::Null | Value::Bool(_) => value.to_string().len(),
        Value::String(text) => text_len(text),
        Value::Number(number) => plain_len(&number.to_string()),
        Value::Array(values) => of_list(values.len(), values.iter().map(printed_len).sum()),
        Value::Object(fields) => {
            let lengths =
                fields.iter().map(|(name, value)| text_len(name) + 2 + printed_len(value));
            of_list(fields.len(), lengths.sum())
        }
    }
}

/// At least the length of a number without its exponent.
fn plain_len(number: &str) -> usize {
    let Some((digits, exponent)) = number.split_once('e') else { return number.len() };
    let zeros =
        exponent.parse::<i32>().map_or(usize::MAX, |exponent| exponent.unsigned_abs() as usize);
    zeros.saturating_add(digits.len() + 2)
}

/// A time that reads as null when no calendar of ours has it.
pub(super) fn bounded_time(column: &str) -> String {
    format!("{} AS {column}", time_in_bounds(column))
}

pub(super) fn time_in_bounds(column: &str) -> String {
    format!(
        "CASE WHEN {column} BETWEEN '2000-01-01Z'::timestamptz AND '2200-01-01Z'::timestamptz THEN {column} END"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_counts_as_it_is_printed() {
        for (value, printed) in [
            (json!(null), "null"),
            (json!([]), "[]"),
            (json!({}), "{}"),
            (json!([1, -2, true]), "[1, -2, true]"),
            (json!({ "a": { "b": "\"\n" }, "c": [] }), r#"{"a": {"b": "\"\n"}, "c": []}"#),
            (json!(0.5), "0.5"),
        ] {
            assert_eq!(printed_len(&value), printed.len(), "{printed}");
        }
        for (number, len) in [(1e300, 301), (-1.5e300, 302), (1.5e-300, 303), (5e-324, 326)] {
            let printed = printed_len(&json!(number));
            assert!((len..len + 5).contains(&printed), "{number:?}: {printed}");
        }
    }
}
