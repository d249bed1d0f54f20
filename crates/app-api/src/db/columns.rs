//! Domain types in columns: enums as text, records as JSON. A value that does not parse is an error, never a default.

use std::fmt::Debug;

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::pg::{Pg, PgValue};
use diesel::sql_types::{Jsonb, Text};
use protocol::api_keys::Role;
use protocol::orchestrator::Upstream;
use protocol::spec::{Desired, Limits, Policy};
use protocol::{Slug, State};
use serde::de::DeserializeOwned;

use crate::tenant::TenantApp;
use crate::tenant::crashes::Crashes;
use crate::tenant::database::ProvisionedDatabase;

/// A text column that holds a value with a text form, such as an enum or a slug.
#[derive(Debug, FromSqlRow)]
pub struct TextColumn<T>(T);

impl<T: DeserializeOwned + Debug> FromSql<Text, Pg> for TextColumn<T> {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let text = <String as FromSql<Text, Pg>>::from_sql(value)?;
        Ok(Self(serde_json::from_value(serde_json::Value::String(text))?))
    }
}

/// A JSON column that holds one record.
#[derive(Debug, FromSqlRow)]
pub struct JsonColumn<T>(T);

impl<T: DeserializeOwned + Debug> FromSql<Jsonb, Pg> for JsonColumn<T> {
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
    TextColumn => State,
    TextColumn => Desired,
    TextColumn => Role,
    TextColumn => Slug,
    TextColumn => protocol::people::MemberRole,
    TextColumn => protocol::rollouts::RolloutState,
    TextColumn => protocol::rollouts::MemberState,
    TextColumn => protocol::backups::BackupState,
    TextColumn => protocol::triggers::CatchUp,
    TextColumn => protocol::triggers::TriggerKind,
    JsonColumn => Limits,
    JsonColumn => Policy,
    JsonColumn => Crashes,
    JsonColumn => std::collections::BTreeMap<String, String>,
    JsonColumn => std::collections::BTreeMap<String, serde_json::Value>,
    JsonColumn => Option<Upstream>,
    JsonColumn => protocol::process::AppSpec,
    JsonColumn => Option<TenantApp>,
    JsonColumn => Option<protocol::events::EventTenant>,
    JsonColumn => Option<protocol::events::EventResource>,
    JsonColumn => Option<ProvisionedDatabase>,
}
