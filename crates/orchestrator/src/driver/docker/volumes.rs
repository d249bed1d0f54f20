//! Reads and fills the volumes of a tenant by way of a container that never starts.
//!
//! The engine's archive calls keep owners, modes, times and links, and start nothing. They reach a volume through any container
//! that mounts it, whatever the tenant's own container does.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard::Docker as Client;
use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType, MountVolumeOptions};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder,
    UploadToContainerOptionsBuilder,
};
use futures_util::StreamExt as _;
use protocol::TenantId;

use super::DockerDriver;
use super::engine::{ACTION_TIMEOUT, INSPECT_TIMEOUT, driver_error, optional, with_timeout};
use crate::driver::{DriverError, DriverErrorCode, VOLUME_FOLDERS, VolumeSink, VolumeStream};
use crate::quota::VolumeUse;

/// Bounds a whole transfer. A volume of 1 TB at 50 MB a second takes less.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(6 * 3_600);
/// How long the engine may be silent in a transfer.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);

/// The bytes that are written between two checks of the free space.
const CHECK_BYTES: usize = 8 << 20;

/// The access of the container to the volumes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Read,
    Fill,
}

impl DockerDriver {
    pub(super) async fn copy_volumes_out(
        &self,
        id: TenantId,
        sink: VolumeSink,
    ) -> Result<(), DriverError> {
        let client = self.engine.client().await?.with_timeout(TRANSFER_TIMEOUT);
        for name in [id.data_volume(), id.files_volume()] {
            let volume = optional(INSPECT_TIMEOUT, client.inspect_volume(&name)).await?;
            let volume = volume.ok_or_else(|| DriverError::no_volumes(id))?;
            self.claim("volume", &name, &volume.labels, id)?;
        }
        let name = self.create_volume_work(&client, id, Purpose::Read).await?;
        let copied = async {
            for folder in VOLUME_FOLDERS {
                copy_out(&client, &name, folder, &sink).await?;
            }
            Ok(())
        };
        let copied = copied.await;
        let removed = self.remove_container(&client, &name).await;
        copied.and(removed)
    }

    /// Leaves nothing of the tenant when it fails.
    pub(super) async fn create_filled_volumes(
        &self,
        id: TenantId,
        limit_bytes: u64,
        tar: VolumeStream,
    ) -> Result<(), DriverError> {
        let client = self.engine.client().await?.with_timeout(TRANSFER_TIMEOUT);
        self.refuse_new_below_reserve(&client, id).await?;
        self.refuse_existing(&client, id).await?;
        let is_full = Arc::new(AtomicBool::new(false));
        let tar = until_full(tar, self.below_reserve(), is_full.clone());
        let filled = async {
            self.create_volumes(&client, id).await?;
            // Before anything is in them.
            self.quotas.set(id, limit_bytes, VolumeUse::New).await;
            let name = self.create_volume_work(&client, id, Purpose::Fill).await?;
            let options = UploadToContainerOptionsBuilder::default().path("/").build();
            let sent =
                client.upload_to_container(&name, Some(options), bollard::body_try_stream(tar));
            with_timeout(TRANSFER_TIMEOUT, sent).await?;
            self.remove_container(&client, &name).await
        };
        let mut filled = filled.await;
        if filled.is_err() && is_full.load(Ordering::Relaxed) {
            let detail = "The engine's disk has less left than the reserve (CIAL_DISK_RESERVE_BYTES). Nothing is imported until there is room.";
            filled = Err(DriverError::new(DriverErrorCode::DiskFull, detail));
        }
        if filled.is_err()
            && let Err(error) = self.remove_all(id).await
        {
            tracing::warn!(tenant = %id, %error, "volumes of a failed import not removed");
        }
        filled
    }

    /// Removes the container of a transfer that nobody finished: it would hold the volumes.
    pub(super) async fn remove_volume_work(
        &self,
        client: &Client,
        id: TenantId,
    ) -> Result<(), DriverError> {
        self.remove_container(client, &work_name(id)).await
    }

    /// As [`remove_volume_work`](Self::remove_volume_work), where nobody waits for it: the next transfer and a delete try again.
    pub(super) async fn remove_left_volume_work(&self, id: TenantId) {
        let removed = async {
            let client = self.engine.client().await?;
            self.remove_volume_work(&client, id).await
        };
        if let Err(error) = removed.await {
            tracing::warn!(tenant = %id, %error, "container of a transfer not removed");
        }
    }

    async fn refuse_existing(&self, client: &Client, id: TenantId) -> Result<(), DriverError> {
        let (container, data, files) = (id.container(), id.data_volume(), id.files_volume());
        let (container, data, files) = tokio::try_join!(
            optional(INSPECT_TIMEOUT, client.inspect_container(&container, None)),
            optional(INSPECT_TIMEOUT, client.inspect_volume(&data)),
            optional(INSPECT_TIMEOUT, client.inspect_volume(&files)),
        )?;
        if container.is_none() && data.is_none() && files.is_none() {
            return Ok(());
        }
        let detail = format!("Tenant {id} exists already, and an import fills new tenants only.");
        Err(DriverError::new(DriverErrorCode::NameTaken, detail))
    }

    async fn create_volume_work(
        &self,
        client: &Client,
        id: TenantId,
        purpose: Purpose,
    ) -> Result<String, DriverError> {
        self.remove_volume_work(client, id).await?;
        let [data, files] = VOLUME_FOLDERS;
        let mount = |name: String, folder: &str| Mount {
            target: Some(format!("/{folder}")),
            source: Some(name),
            typ: Some(MountType::VOLUME),
            read_only: Some(purpose == Purpose::Read),
            // The engine would copy what the image holds at this path into an empty volume.
            volume_options: Some(MountVolumeOptions {
                no_copy: Some(true),
                ..MountVolumeOptions::default()
            }),
            ..Mount::default()
        };
        let body = ContainerCreateBody {
            image: Some(self.template.image.clone()),
            // The engine never looks it up.
            entrypoint: Some(vec!["/never".to_owned()]),
            network_disabled: Some(true),
            labels: Some(self.template.own_labels()),
            host_config: Some(HostConfig {
                mounts: Some(vec![mount(id.data_volume(), data), mount(id.files_volume(), files)]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let name = work_name(id);
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        with_timeout(ACTION_TIMEOUT, client.create_container(Some(options), body)).await?;
        Ok(name)
    }
}

fn work_name(id: TenantId) -> String {
    format!("cial-volumes-{id}")
}

/// Ends a tar with an error when the disk that it is written to has too little space. The space is checked now and then.
fn until_full(
    tar: VolumeStream,
    is_below_reserve: impl Fn() -> bool + Send + 'static,
    is_full: Arc<AtomicBool>,
) -> VolumeStream {
    let mut unchecked = 0;
    let pieces = tar.map(move |piece| {
        let piece = piece?;
        unchecked += piece.len();
        if unchecked >= CHECK_BYTES {
            unchecked = 0;
            if is_below_reserve() {
                is_full.store(true, Ordering::Relaxed);
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        Ok(piece)
    });
    pieces.boxed()
}

/// Sends one volume as a tar whose entries begin with the name of the folder.
async fn copy_out(
    client: &Client,
    container: &str,
    folder: &str,
    sink: &VolumeSink,
) -> Result<(), DriverError> {
    let path = format!("/{folder}");
    let options = DownloadFromContainerOptionsBuilder::default().path(&path).build();
    let mut pieces = client.download_from_container(container, Some(options));
    loop {
        let piece = tokio::time::timeout(PIECE_TIMEOUT, pieces.next()).await;
        let piece = piece.map_err(|_| {
            let detail = "The container engine stopped sending a volume. Look at its log.";
            DriverError::new(DriverErrorCode::EngineTimeout, detail)
        })?;
        let Some(piece) = piece else { return Ok(()) };
        let piece = piece.map_err(|error| driver_error(&error))?;
        if !piece.is_empty() && sink.send(Ok(piece)).await.is_err() {
            return Err(DriverError::reader_gone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use bytes::Bytes;
    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn a_tar_ends_when_the_disk_has_less_than_the_reserve() {
        let piece = || Ok(Bytes::from(vec![0; CHECK_BYTES / 2]));
        let (checks, is_full) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
        let is_below_reserve = move || checks.fetch_add(1, Ordering::Relaxed) == 1;
        let tar = stream::iter((0..10).map(move |_| piece())).boxed();
        let mut bounded = until_full(tar, is_below_reserve, is_full.clone());
        for _ in 0..3 {
            assert!(bounded.next().await.unwrap().is_ok());
            assert!(!is_full.load(Ordering::Relaxed));
        }
        let error = bounded.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(is_full.load(Ordering::Relaxed));
    }
}
