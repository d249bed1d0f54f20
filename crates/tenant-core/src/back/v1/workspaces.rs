//! Workspaces: a list and their making.

use hyper::StatusCode;
use protocol::Problem;
use protocol::history::CreateWorkspace;
use protocol::problem::FieldCode;
use protocol::text::{LineError, check_line};
use tenant_service::{RequestBody, Response};

use super::query::Query;
use super::{Back, CallError, invalid_field, now, read, respond};
use crate::history::workspaces;

const MAX_NAME_CHARS: usize = 100;

impl Back {
    pub(super) async fn list_workspaces(&self, query: Option<&str>) -> Result<Response, CallError> {
        let page = Query::parse(query, &["limit", "cursor"])?.page()?;
        let list = self.history.read(move |connection| workspaces::list(connection, &page));
        respond(StatusCode::OK, &list.await?)
    }

    pub(super) async fn create_workspace(&self, body: RequestBody) -> Result<Response, CallError> {
        let CreateWorkspace { name, parent_id, id: _ } = read(body).await?;
        let name = line("name", &name)?;
        let create = move |connection: &_| workspaces::create(connection, &name, parent_id, now());
        let no_parent =
            || invalid_field("parent_id", FieldCode::Invalid, "must be the id of a workspace");
        let created = self.history.write(create).await?.ok_or_else(no_parent)?;
        respond(StatusCode::CREATED, &created)
    }
}

/// A line that people read.
pub(super) fn line(field: &str, text: &str) -> Result<String, Box<Problem>> {
    let (code, message) = match check_line(text, MAX_NAME_CHARS) {
        Ok(line) => return Ok(line.to_owned()),
        Err(LineError::Blank) => (FieldCode::Required, "must not be empty".to_owned()),
        Err(LineError::TooLong) => {
            (FieldCode::TooLong, format!("must have at most {MAX_NAME_CHARS} characters"))
        }
        Err(LineError::Unprintable) => {
            (FieldCode::InvalidName, "must hold no control or invisible characters".to_owned())
        }
    };
    Err(invalid_field(field, code, &message))
}
