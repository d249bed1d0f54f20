//! The sizes of tenants' volumes, measured by the engine, and the free space of the engine's disk.
//!
//! The orchestrator is an ordinary user without access to the engine's directories. It can neither
//! set a quota nor walk a volume; the engine can measure volumes for it, and the service `quota` can
//! set quotas.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use bollard::Docker as Client;
use protocol::TenantId;
use protocol::id::labels;
use protocol::orchestrator::DiskCapacity;
use protocol::text::describe_bytes;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::DockerDriver;
use super::engine::{INSPECT_TIMEOUT, optional};
use super::template::ContainerTemplate;
use crate::driver::{DiskSpace, DriverError, DriverErrorCode};

/// The engine walks every volume for a measurement, which is slow on a slow disk.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(300);
/// Far above the size of a list of ten thousand tenants.
const MAX_RESPONSE_BYTES: u64 = 64 << 20;
/// Engines up to this version list volumes in the shape that [`DataUsage`] reads, and newer ones
/// still accept it.
const NEWEST_READABLE: (usize, usize) = (1, 44);

/// The part of `GET /system/df` that lists volumes. The engine client's own type reads newer
/// engines only.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DataUsage {
    #[serde(default)]
    volumes: Option<Vec<VolumeUsage>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VolumeUsage {
    labels: Option<HashMap<String, String>>,
    usage_data: Option<UsageData>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UsageData {
    /// Bytes; -1 where the engine could not measure.
    size: i64,
}

impl DockerDriver {
    pub(super) async fn measure_volumes(&self) -> Result<HashMap<TenantId, u64>, DriverError> {
        let version = self.engine.client().await?.client_version();
        let version = (version.major_version, version.minor_version).min(NEWEST_READABLE);
        let path = format!("/v{}.{}/system/df?type=volume", version.0, version.1);
        let fetch = fetch(self.engine.socket(), &path);
        let response = match tokio::time::timeout(MEASURE_TIMEOUT, fetch).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let detail = format!("The engine did not report the size of its volumes: {error}.");
                return Err(DriverError::new(DriverErrorCode::EngineUnreachable, detail));
            }
            Err(_) => {
                let detail = "The engine did not measure its volumes in time.";
                return Err(DriverError::new(DriverErrorCode::EngineTimeout, detail));
            }
        };
        let usage = parse_usage(&response)?;
        Ok(bytes_by_tenant(&self.template, usage))
    }

    /// Refuses a tenant without volumes when the disk has less free space than the reserve.
    /// Existing tenants pass: their containers may be created again.
    pub(super) async fn refuse_new_below_reserve(
        &self,
        client: &Client,
        id: TenantId,
    ) -> Result<(), DriverError> {
        let Some(disk) = self.disk_capacity().filter(|d| d.free_bytes < d.reserve_bytes) else {
            return Ok(());
        };
        let volume = optional(INSPECT_TIMEOUT, client.inspect_volume(&id.data_volume())).await?;
        if volume.is_some() {
            return Ok(());
        }
        let detail = format!(
            "The engine's disk has {} left, less than the reserve of {} (CIAL_DISK_RESERVE_BYTES). No tenant is created until there is room.",
            describe_bytes(disk.free_bytes),
            describe_bytes(disk.reserve_bytes),
        );
        Err(DriverError::new(DriverErrorCode::DiskFull, detail))
    }

    pub(super) fn disk_capacity(&self) -> Option<DiskCapacity> {
        let DiskSpace { free_bytes, total_bytes } = self.read_disk_space().ok()?;
        Some(DiskCapacity { free_bytes, total_bytes, reserve_bytes: self.disk_reserve_bytes })
    }

    /// Says, whenever it is called, whether the disk has less free space than the reserve.
    pub(super) fn below_reserve(&self) -> impl Fn() -> bool + Send + 'static {
        let (state_dir, reserve_bytes) = (self.state_dir.clone(), self.disk_reserve_bytes);
        move || read_space(&state_dir).is_ok_and(|space| space.free_bytes < reserve_bytes)
    }

    pub(super) fn read_disk_space(&self) -> Result<DiskSpace, DriverError> {
        read_space(&self.state_dir).map_err(|error| {
            let detail = format!("CIAL_STATE_DIR cannot be read: {error}.");
            DriverError::new(DriverErrorCode::Internal, detail)
        })
    }
}

/// The free space of the filesystem at `path` for an ordinary user.
fn read_space(path: &Path) -> nix::Result<DiskSpace> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    let block = stat.fragment_size();
    Ok(DiskSpace {
        free_bytes: stat.blocks_available().saturating_mul(block),
        total_bytes: stat.blocks().saturating_mul(block),
    })
}

fn bytes_by_tenant(template: &ContainerTemplate, usage: DataUsage) -> HashMap<TenantId, u64> {
    let mut bytes: HashMap<TenantId, u64> = HashMap::new();
    for volume in usage.volumes.unwrap_or_default() {
        let (Some(labels), Some(usage)) = (volume.labels, volume.usage_data) else { continue };
        let id = labels.get(labels::TENANT).and_then(|id| id.parse().ok());
        let (Some(id), Ok(size)) = (id, u64::try_from(usage.size)) else { continue };
        if template.owns(&labels) {
            let sum = bytes.entry(id).or_default();
            *sum = sum.saturating_add(size);
        }
    }
    bytes
}

/// Sends one request on a separate connection. With HTTP/1.0, the engine ends the body by closing
/// the connection.
async fn fetch(socket: &Path, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
    let mut response = Vec::new();
    stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut response).await?;
    Ok(response)
}

fn parse_usage(response: &[u8]) -> Result<DataUsage, DriverError> {
    let end = response.windows(4).position(|w| w == b"\r\n\r\n");
    let (head, body) = match end {
        Some(end) => (&response[..end], &response[end + 4..]),
        None => (response, &[][..]),
    };
    let is_ok = head.starts_with(b"HTTP/1.0 200 ") || head.starts_with(b"HTTP/1.1 200 ");
    let usage = is_ok.then(|| serde_json::from_slice(body).ok()).flatten();
    usage.ok_or_else(|| {
        let text = String::from_utf8_lossy(if is_ok { head } else { body });
        let detail = format!("The engine did not measure its volumes: {}.", text.trim());
        DriverError::new(DriverErrorCode::EngineRefused, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0192f0c1-2345-7abc-8def-0123456789ab";

    fn response(body: &str) -> Vec<u8> {
        format!("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{body}").into_bytes()
    }

    #[test]
    fn both_volumes_of_a_tenant_count_and_foreign_ones_do_not() {
        let labels = |install: &str| serde_json::json!({"cial.managed": "1", "cial.install": install, "cial.tenant": ID});
        let body = serde_json::json!({"LayersSize": 5, "Volumes": [
            {"Name": "a", "Labels": labels("local"), "UsageData": {"Size": 100, "RefCount": 1}},
            {"Name": "b", "Labels": labels("local"), "UsageData": {"Size": 23, "RefCount": 1}},
            {"Name": "c", "Labels": labels("local"), "UsageData": {"Size": -1, "RefCount": -1}},
            {"Name": "d", "Labels": labels("other"), "UsageData": {"Size": 1_000, "RefCount": 1}},
            {"Name": "e", "Labels": null, "UsageData": {"Size": 1_000, "RefCount": 1}},
            {"Name": "f", "Labels": labels("local"), "UsageData": null},
        ]});
        let template = ContainerTemplate {
            install: "local".parse().unwrap(),
            image: "x".to_owned(),
            publish: false,
            egress: true,
        };
        let usage = parse_usage(&response(&body.to_string())).unwrap();
        assert_eq!(bytes_by_tenant(&template, usage), HashMap::from([(ID.parse().unwrap(), 123)]));
    }

    #[test]
    fn a_refusal_of_the_engine_is_an_error_with_its_words() {
        let busy = b"HTTP/1.0 409 Conflict\r\n\r\n{\"message\":\"a disk usage operation is already running\"}";
        let error = parse_usage(busy).err().unwrap();
        assert!(error.detail.contains("already running"), "{error}");
        assert!(parse_usage(b"HTTP/1.0 200 OK\r\n\r\n<html>").is_err());
        assert!(parse_usage(b"").is_err());
        assert!(parse_usage(&response("{\"Volumes\":null}")).is_ok());
    }

    #[test]
    fn free_space_is_at_most_the_total() {
        let space = read_space(&std::env::temp_dir()).unwrap();
        assert!(space.free_bytes <= space.total_bytes && space.total_bytes > 0);
    }
}
