//! Removes all objects of a tenant from the engine by label, and verifies that nothing is left.

use bollard::Docker as Client;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListVolumesOptions, RemoveVolumeOptions,
};
use protocol::TenantId;

use super::engine::{ACTION_TIMEOUT, INSPECT_TIMEOUT, optional, with_timeout};
use super::{DockerDriver, disk_error};
use crate::driver::{DriverError, DriverErrorCode};

impl DockerDriver {
    pub(super) async fn remove_all(&self, id: TenantId) -> Result<(), DriverError> {
        let client = self.engine.client().await?;
        self.probes.close(id);
        for container in self.containers_of(&client, id).await? {
            self.remove_container(&client, &container).await?;
        }
        self.remove_volume_work(&client, id).await?;
        let volumes = async {
            self.quotas.remove(id).await;
            for volume in self.volumes_of(&client, id).await? {
                optional(
                    ACTION_TIMEOUT,
                    client.remove_volume(&volume, None::<RemoveVolumeOptions>),
                )
                .await?;
            }
            Ok(())
        };
        tokio::try_join!(self.remove_networks(&client, id), volumes)?;
        let had_database = self.database_proxy.serves(id);
        self.tenant_dirs.remove(id).map_err(|e| disk_error(&e))?;
        if had_database {
            self.database_proxy.follow_directory(id).await;
        }
        self.verify_gone(&client, id).await?;
        self.remove_unused_images(&client, None).await;
        Ok(())
    }

    async fn verify_gone(&self, client: &Client, id: TenantId) -> Result<(), DriverError> {
        let (containers, networks, volumes) = tokio::try_join!(
            self.containers_of(client, id),
            self.networks_of(client, id),
            self.volumes_of(client, id),
        )?;
        let left: Vec<_> = containers.into_iter().chain(networks).chain(volumes).collect();
        if left.is_empty() {
            return Ok(());
        }
        let detail = format!(
            "Tenant {id} was removed, yet the engine still shows {}. Try again.",
            left.join(", ")
        );
        Err(DriverError::new(DriverErrorCode::EngineRefused, detail))
    }

    async fn containers_of(
        &self,
        client: &Client,
        id: TenantId,
    ) -> Result<Vec<String>, DriverError> {
        let wanted = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&self.template.filters(Some(id)))
            .build();
        let containers =
            with_timeout(INSPECT_TIMEOUT, client.list_containers(Some(wanted))).await?;
        Ok(containers.into_iter().filter_map(|c| c.id).collect())
    }

    async fn volumes_of(&self, client: &Client, id: TenantId) -> Result<Vec<String>, DriverError> {
        let wanted = ListVolumesOptions { filters: Some(self.template.filters(Some(id))) };
        let volumes = with_timeout(INSPECT_TIMEOUT, client.list_volumes(Some(wanted))).await?;
        Ok(volumes.volumes.unwrap_or_default().into_iter().map(|v| v.name).collect())
    }
}
