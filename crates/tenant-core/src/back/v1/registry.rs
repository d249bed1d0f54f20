//! The registry: which workspaces may be contacted, and by which other ones.
//!
//! Each reason why a caller sees no peers has its own words, because a caller that reads "no peers" for all of them
//! looks for the fault in the wrong place.

use hyper::StatusCode;
use protocol::Problem;
use protocol::history::{ChannelMessage, Heartbeat, Peers, Register};
use protocol::problem::{Code, FieldCode};
use tenant_service::{RequestBody, Response, response};
use uuid::Uuid;

use super::workspaces::line;
use super::{Back, CallError, invalid_field, now, read, respond};
use crate::channel::{envelope, parse_id};
use crate::history::workspaces;

const NO_PEERS: &str = "200: this workspace is registered. It has no peer yet: no parent, child or sibling is registered.";

impl Back {
    pub(super) async fn register(&self, body: RequestBody) -> Result<Response, CallError> {
        let Register { workspace_id, role } = read(body).await?;
        let role = role.map(|role| line("role", &role)).transpose()?;
        let register = move |connection: &_| {
            workspaces::register(connection, workspace_id, role.as_deref(), now())
        };
        let unknown =
            || invalid_field("workspace_id", FieldCode::Invalid, "must be the id of a workspace");
        respond(StatusCode::OK, &self.history.write(register).await?.ok_or_else(unknown)?)
    }

    pub(super) async fn record_heartbeat(&self, body: RequestBody) -> Result<Response, CallError> {
        let Heartbeat { workspace_id } = read(body).await?;
        let record =
            move |connection: &_| workspaces::record_heartbeat(connection, workspace_id, now());
        match self.history.write(record).await? {
            true => Ok(response::empty(StatusCode::NO_CONTENT)),
            false => Err(not_registered(&workspace_id.to_string()).into()),
        }
    }

    pub(super) async fn get_registration(&self, id: &str) -> Result<Response, CallError> {
        let registration = match parse_id(id) {
            Some(id) => {
                self.history
                    .read(move |connection| workspaces::registration(connection, id))
                    .await?
            }
            None => None,
        };
        respond(StatusCode::OK, &registration.ok_or_else(|| not_registered(id))?)
    }

    pub(super) async fn list_peers(&self, id: &str) -> Result<Response, CallError> {
        let peers = match parse_id(id) {
            Some(id) => {
                self.history.read(move |connection| workspaces::peers(connection, id)).await?
            }
            None => None,
        };
        let items = peers.ok_or_else(|| not_registered(id))?;
        let diagnostic = items.is_empty().then(|| NO_PEERS.to_owned());
        respond(StatusCode::OK, &Peers { items, diagnostic })
    }

    pub(super) async fn make_envelope(&self, body: RequestBody) -> Result<Response, CallError> {
        let message: ChannelMessage = read(body).await?;
        let peer = match parse_id(&message.peer_id) {
            Some(id) => {
                self.history
                    .read(move |connection| workspaces::registration(connection, id))
                    .await?
            }
            None => None,
        };
        respond(StatusCode::OK, &envelope(message, peer.as_ref()))
    }
}

/// An id that is none is answered like one that nobody registered. It is repeated only if it is one.
fn not_registered(id: &str) -> Box<Problem> {
    let name = parse_id(id).as_ref().map_or_else(|| "of this id".to_owned(), Uuid::to_string);
    let detail = format!(
        "404: no workspace {name} is registered here. Register it first: POST /.cial/api/v1/registry/register."
    );
    Box::new(Problem::new(Code::NotRegistered, detail))
}
