//! Our types in columns: words as text, records as JSON. A column that does not read is an error, never a guess.

use std::fmt::Debug;

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::pg::{Pg, PgValue};
use diesel::sql_types::{Jsonb, Text};
use protocol::orchestrator::Upstream;
use protocol::spec::{Desired, Limits, Policy};
use protocol::{Slug, State};
use serde::de::DeserializeOwned;

use crate::reconcile::crashes::Crashes;

/// A text column that holds one word of ours.
#[derive(Debug, FromSqlRow)]
pub struct Word<T>(T);

impl<T: DeserializeOwned + Debug> FromSql<Text, Pg> for Word<T> {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let text = <String as FromSql<Text, Pg>>::from_sql(value)?;
        Ok(Self(serde_json::from_value(serde_json::Value::String(text))?))
    }
}

/// A JSON column that holds one record of ours.
#[derive(Debug, FromSqlRow)]
pub struct Record<T>(T);

impl<T: DeserializeOwned + Debug> FromSql<Jsonb, Pg> for Record<T> {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let json = <serde_json::Value as FromSql<Jsonb, Pg>>::from_sql(value)?;
        Ok(Self(serde_json::from_value(json)?))
    }
}

macro_rules! unwraps {
    ($($wrapper:ident => $inner:ty),* $(,)?) => {
        $(impl From<$wrapper<$inner>> for $inner {
            fn from(wrapped: $wrapper<$inner>) -> Self {
                wrapped.0
            }
        })*
    };
}

unwraps! {
    Word => State,
    Word => Desired,
    Word => Slug,
    Record => Limits,
    Record => Policy,
    Record => Crashes,
    Record => std::collections::BTreeMap<String, String>,
    Record => Option<Upstream>,
}
