//! Taking all of a tenant off the engine, found by label, and looking that nothing is left.

use bollard::Docker as Client;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListVolumesOptions, RemoveVolumeOptions,
};
use protocol::TenantId;

use super::engine::{ACT, LOOK, found, within};
use super::{Docker, on_disk};
use crate::driver::{Code, Refusal};

impl Docker {
    pub(super) async fn remove_all(&self, id: TenantId) -> Result<(), Refusal> {
        let client = self.engine.client().await?;
        self.doors.close(id);
        for container in self.containers_of(&client, id).await? {
            self.remove_container(&client, &container).await?;
        }
        let volumes = async {
            for volume in self.volumes_of(&client, id).await? {
                found(ACT, client.remove_volume(&volume, None::<RemoveVolumeOptions>)).await?;
            }
            Ok(())
        };
        tokio::try_join!(self.remove_networks(&client, id), volumes)?;
        self.rooms.remove(id).map_err(|e| on_disk(&e))?;
        self.verify_gone(&client, id).await
    }

    async fn verify_gone(&self, client: &Client, id: TenantId) -> Result<(), Refusal> {
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
        Err(Refusal::new(Code::EngineRefused, detail))
    }

    async fn containers_of(&self, client: &Client, id: TenantId) -> Result<Vec<String>, Refusal> {
        let wanted = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&self.house.filters(Some(id)))
            .build();
        let containers = within(LOOK, client.list_containers(Some(wanted))).await?;
        Ok(containers.into_iter().filter_map(|c| c.id).collect())
    }

    async fn volumes_of(&self, client: &Client, id: TenantId) -> Result<Vec<String>, Refusal> {
        let wanted = ListVolumesOptions { filters: Some(self.house.filters(Some(id))) };
        let volumes = within(LOOK, client.list_volumes(Some(wanted))).await?;
        Ok(volumes.volumes.unwrap_or_default().into_iter().map(|v| v.name).collect())
    }
}
