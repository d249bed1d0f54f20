//! Writes an imported schema, as the role of its tenant. The statements are anybody's: the rights of the role bound them, and nothing else.

use std::pin::Pin;

use axum::body::Bytes;
use futures_util::SinkExt as _;
use tenant_archive::ScriptItem;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, CopyInSink, Error, SimpleQueryMessage};

use super::quote::identifier;
use super::tenant_database::PLATFORM_TABLES;

/// The characters of a statement that an error shows.
const MAX_SHOWN_CHARS: usize = 120;

pub struct SchemaWriter {
    client: Client,
    /// Quoted.
    schema: String,
    /// The `COPY` whose rows follow.
    copy: String,
    /// Takes the rows. Is open between two items only within a row.
    rows: Option<Pin<Box<CopyInSink<Bytes>>>>,
}

/// Why a schema was not written.
#[derive(Debug)]
pub enum RestoreError {
    /// Postgres refuses a statement: its text is the archive's.
    Refused(String),
    DiskFull,
    Unavailable(anyhow::Error),
}

impl SchemaWriter {
    pub(super) fn new(client: Client, schema: &str) -> Self {
        Self { client, schema: identifier(schema), copy: String::new(), rows: None }
    }

    /// Drops the tables that the migrations made: those of the archive take their place, with the ledger of their migrations.
    pub async fn clear(&self) -> Result<(), RestoreError> {
        let tables = PLATFORM_TABLES.iter().map(|table| format!("{}.{table}", self.schema));
        let tables: Vec<_> = tables.collect();
        let drop = format!("DROP TABLE IF EXISTS {} CASCADE", tables.join(", "));
        self.client.batch_execute(&drop).await.map_err(|error| self.explain(&error, &drop))
    }

    /// Each item is a transaction: one for all would hold more locks than a role may, and for longer.
    pub async fn write(&mut self, item: ScriptItem) -> Result<(), RestoreError> {
        match item {
            ScriptItem::Statement(sql) => {
                let executed = self.client.batch_execute(&sql).await;
                executed.map_err(|error| self.explain(&error, &sql))
            }
            ScriptItem::Copy(sql) => {
                self.copy = sql;
                Ok(())
            }
            ScriptItem::Rows { bytes, ends_a_row } => {
                let written = self.write_rows(bytes, ends_a_row).await;
                written.map_err(|error| self.explain(&error, &self.copy))
            }
            ScriptItem::EndOfRows => {
                self.end_rows().await.map_err(|error| self.explain(&error, &self.copy))
            }
        }
    }

    async fn write_rows(&mut self, bytes: Bytes, ends_a_row: bool) -> Result<(), Error> {
        let mut rows = match self.rows.take() {
            Some(rows) => rows,
            None => Box::pin(self.client.copy_in(&self.copy).await?),
        };
        rows.send(bytes).await?;
        self.rows = Some(rows);
        if ends_a_row { self.end_rows().await } else { Ok(()) }
    }

    async fn end_rows(&mut self) -> Result<(), Error> {
        match self.rows.take() {
            Some(mut rows) => rows.as_mut().finish().await.map(drop),
            None => Ok(()),
        }
    }

    /// The last migration that the ledger of the schema names; `None` without a ledger.
    pub async fn version(&self) -> Result<Option<String>, RestoreError> {
        // Statements that began a transaction and did not end it would be undone. Without one, this does nothing.
        let commit = self.client.batch_execute("COMMIT").await;
        commit.map_err(|error| self.explain(&error, "COMMIT"))?;
        let query = format!("SELECT max(version) FROM {}.__diesel_schema_migrations", self.schema);
        match self.client.simple_query(&query).await {
            Ok(messages) => Ok(messages.iter().find_map(|message| {
                if let SimpleQueryMessage::Row(row) = message {
                    row.get(0).map(str::to_owned)
                } else {
                    None
                }
            })),
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(None),
            Err(error) => Err(self.explain(&error, &query)),
        }
    }

    fn explain(&self, error: &Error, sql: &str) -> RestoreError {
        let shown: String = sql.chars().take(MAX_SHOWN_CHARS).collect();
        let Some(refusal) = error.as_db_error() else {
            if self.client.is_closed() {
                return RestoreError::Unavailable(anyhow::anyhow!("{error}"));
            }
            let why = "the server wants or sends rows that are not those of a text";
            return RestoreError::Refused(format!("{why}; at: {shown}"));
        };
        if *refusal.code() == SqlState::DISK_FULL {
            return RestoreError::DiskFull;
        }
        if is_of_server(refusal.code()) {
            return RestoreError::Unavailable(anyhow::anyhow!("{}", refusal.message()));
        }
        RestoreError::Refused(format!("{}; at: {shown}", refusal.message()))
    }
}

/// Whether the same statement may succeed later: the server lacks something, ends, or somebody else holds a lock. A statement that was
/// cancelled took longer than any may.
fn is_of_server(code: &SqlState) -> bool {
    let class = code.code().get(..2).unwrap_or_default();
    let is_own = [SqlState::QUERY_CANCELED, SqlState::CONFIGURATION_LIMIT_EXCEEDED].contains(code);
    *code == SqlState::LOCK_NOT_AVAILABLE || (["40", "53", "57"].contains(&class) && !is_own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_lacks_is_not_the_archives_fault() {
        for (code, expected) in [
            (SqlState::TOO_MANY_CONNECTIONS, true),
            (SqlState::OUT_OF_MEMORY, true),
            (SqlState::ADMIN_SHUTDOWN, true),
            (SqlState::T_R_DEADLOCK_DETECTED, true),
            (SqlState::LOCK_NOT_AVAILABLE, true),
            (SqlState::QUERY_CANCELED, false),
            (SqlState::CONFIGURATION_LIMIT_EXCEEDED, false),
            (SqlState::INSUFFICIENT_PRIVILEGE, false),
            (SqlState::UNDEFINED_TABLE, false),
        ] {
            assert_eq!(is_of_server(&code), expected, "{code:?}");
        }
    }
}
