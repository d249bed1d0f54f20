//! The workflows of a tenant's packages: list, pause, resume.

use package::Workflow;
use protocol::problem::Code;
use service::api_error::ApiError;
use uuid::Uuid;

use super::{WorkError, audit, damaged, open, touch, touch_again};
use crate::access::Principal;
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::tenant_workflows::{self, WorkflowRow};
use crate::db::{Conn, Transaction as _};
use crate::tenant::Tenant;

/// The most workflows that a list shows.
const MAX_WORKFLOWS: i64 = 1_000;

/// A workflow with the package that it comes from.
#[derive(Clone, Debug)]
pub struct FoundWorkflow {
    pub package_id: Uuid,
    pub package: String,
    pub workflow: Workflow,
    pub paused: bool,
}

/// Parses a row. `None` when the tenant changed the row so that it cannot be read.
fn found(row: WorkflowRow) -> Option<FoundWorkflow> {
    let WorkflowRow { name, package_id, package, definition, paused } = row;
    let workflow: Workflow = serde_json::from_value(definition?).ok()?;
    let is_sound = workflow.is_within_limits();
    is_sound.then_some(FoundWorkflow {
        package_id,
        package,
        workflow: Workflow { name, ..workflow },
        paused,
    })
}

/// The workflows of a tenant.
pub async fn list(app: &App, tenant: &Tenant) -> Result<Vec<FoundWorkflow>, WorkError> {
    let mut conn = open(app, tenant).await?;
    let rows = tenant_workflows::list(&mut conn, MAX_WORKFLOWS).await?;
    Ok(rows.into_iter().filter_map(found).collect())
}

/// # Errors
/// `resource_not_found`; `tenant_schema_damaged`.
pub(super) async fn find(conn: &mut Conn, name: &str) -> Result<FoundWorkflow, WorkError> {
    let row = tenant_workflows::by_name(conn, name).await?.ok_or_else(|| {
        ApiError::new(Code::ResourceNotFound, "The tenant has no workflow of this name.")
    })?;
    Ok(found(row).ok_or_else(|| damaged("the definition of the workflow"))?)
}

/// Pauses a workflow, so that it begins no execution and no further task, or resumes it.
///
/// # Errors
/// `resource_not_found`.
pub async fn set_paused(
    app: &App,
    caller: &Principal,
    tenant: &Tenant,
    name: &str,
    paused: bool,
) -> Result<FoundWorkflow, WorkError> {
    let (actor, now) = (Actor::from(caller), app.clock.now());
    let action = if paused { Action::WorkflowPause } else { Action::WorkflowResume };
    let resource = Resource::new("workflow", format!("{}/{name}", tenant.slug));
    let entry = Entry::new(actor.clone(), action, resource);
    let mut conn = open(app, tenant).await?;
    let found = find(&mut conn, name).await?;
    if !paused {
        // Executions of the workflow may have waited. The touch precedes the change, so that a crash in between loses none.
        touch(app, tenant).await?;
    }
    conn.transaction(async |conn| -> Result<_, WorkError> {
        let has_changed = if paused {
            tenant_workflows::pause(conn, name, &actor.name, now).await?
        } else {
            tenant_workflows::resume(conn, name).await?
        };
        if has_changed {
            audit(app, &entry, now).await?;
        }
        Ok(())
    })
    .await?;
    drop(conn);
    if !paused {
        touch_again(app, tenant).await;
    }
    Ok(FoundWorkflow { paused, ..found })
}
