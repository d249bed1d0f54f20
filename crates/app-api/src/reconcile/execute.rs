//! Performs one step. Makes no decision.

use protocol::TenantId;
use protocol::orchestrator::ApplyRequest;
use service::client::CallError;
use uuid::Uuid;

use super::Reconciler;
use super::plan::Step;
use crate::tenant::Tenant;

/// The reason for which a step failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Orchestrator(#[from] CallError),
    #[error("{0:#}")]
    Database(anyhow::Error),
}

impl Reconciler {
    /// Performs `step` and stores the observation that the response carries.
    pub(super) async fn execute(
        &self,
        tenant: &Tenant,
        revoked_sessions: Vec<Uuid>,
        step: Step,
    ) -> Result<(), StepError> {
        let id = tenant.tenant_id();
        match step {
            Step::Noop => {}
            Step::Run | Step::Update => self.apply(tenant, revoked_sessions, false).await?,
            Step::Restart => self.apply(tenant, revoked_sessions, true).await?,
            Step::Wake => self.orchestrator.wake(id).await?,
            Step::Stop => self.orchestrator.stop(id).await?,
            Step::Remove => self.remove(id).await?,
            Step::Create => {
                let (created, ()) =
                    tokio::join!(self.create_database(tenant), self.prepare(tenant));
                created?;
            }
            Step::CreateDatabase => self.create_database(tenant).await?,
            Step::DropDatabase => {
                let dropped = self.tenant_databases.drop_database(tenant, self.clock.now()).await;
                dropped.map_err(StepError::Database)?;
            }
        }
        Ok(())
    }

    async fn create_database(&self, tenant: &Tenant) -> Result<(), StepError> {
        let created = self.tenant_databases.create(tenant, self.clock.now()).await;
        created.map_err(StepError::Database)
    }

    /// The run that follows makes whatever this does not, and says what is in the way.
    async fn prepare(&self, tenant: &Tenant) {
        let user = self.tenant_databases.names(tenant).user;
        if let Err(error) = self.orchestrator.prepare(&tenant.spec_with_database(user)).await {
            tracing::debug!(tenant = %tenant.id, %error, "container not prepared");
        }
    }

    async fn apply(
        &self,
        tenant: &Tenant,
        revoked_sessions: Vec<Uuid>,
        restart: bool,
    ) -> Result<(), CallError> {
        let request = ApplyRequest { spec: tenant.spec(), run: true, restart, revoked_sessions };
        self.observed.insert(self.orchestrator.apply(tenant.tenant_id(), &request).await?);
        Ok(())
    }

    pub(super) async fn remove(&self, id: TenantId) -> Result<(), CallError> {
        self.orchestrator.remove(id).await?;
        self.observed.remove(id);
        Ok(())
    }
}
