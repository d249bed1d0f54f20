//! Limits on XFS and ext4: both volumes of a tenant are parts of one project, whose bytes and inodes the kernel counts and
//! bounds. The number of the project is kept by the directories themselves.

mod directory;
mod kernel;
mod numbers;

use std::collections::HashSet;
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use protocol::TenantId;
use tokio_util::sync::CancellationToken;

use self::directory::Content;
use self::kernel::{Membership, ProjectQuota};
use self::numbers::PROJECTS;
use super::folders::tenant_of;
use super::volumes::VolumeQuotas;
use super::wire::{QuotaError, TenantQuota, VolumeUse};

/// The engine's volumes, if they are on a filesystem that knows projects.
pub(super) struct ProjectVolumes {
    path: PathBuf,
}

impl ProjectVolumes {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn open(&self) -> Result<Projects<'_>, QuotaError> {
        let directory = fs::File::open(&self.path);
        let directory = directory.map_err(|error| self.failed("cannot be opened", error))?;
        let is_enforced = match kernel::enforces_limits(&directory) {
            // An older engine lets no service make the call.
            Err(Errno::ENOSYS | Errno::EPERM) => false,
            done => done.map_err(|error| self.failed("has unknown quotas", error))?,
        };
        if !is_enforced {
            return Err(QuotaError::Unsupported(format!(
                "{} is on a file system without project quotas (mount option prjquota, Linux 5.14, Docker 23)",
                self.path.display()
            )));
        }
        Ok(Projects { volumes: self, directory: directory.into() })
    }

    fn failed(&self, what: &str, error: impl std::fmt::Display) -> QuotaError {
        QuotaError::Failed(format!("{} {what}: {error}", self.path.display()))
    }
}

impl VolumeQuotas for ProjectVolumes {
    fn prepare(&self) -> Result<(), QuotaError> {
        self.open()?.clear_unused()
    }

    fn list(&self) -> Result<Vec<TenantQuota>, QuotaError> {
        self.open()?.list()
    }

    /// The volumes of a tenant become part of a project unless a container has them mounted: a file that is open could
    /// stay outside.
    fn set(
        &self,
        tenant: TenantId,
        limit_bytes: u64,
        volume_use: VolumeUse,
        abandoned: &CancellationToken,
    ) -> Result<Option<TenantQuota>, QuotaError> {
        let projects = self.open()?;
        let members = projects.members()?;
        let project = numbers::projects_of_tenants(&members).get(&tenant).copied();
        let project = match (project, volume_use) {
            (Some(project), _) => project,
            (None, VolumeUse::Mounted) => return Ok(None),
            (None, VolumeUse::New | VolumeUse::Unmounted) => {
                let Some(project) = projects.join(tenant, &members, abandoned)? else {
                    return Ok(None);
                };
                project
            }
        };
        projects.set_limits(project, limit_bytes, numbers::max_inodes(limit_bytes))?;
        Ok(projects.list()?.into_iter().find(|quota| quota.tenant == tenant))
    }

    /// Clears the limits of the tenant's project. The engine removes the content.
    fn remove(&self, tenant: TenantId) -> Result<(), QuotaError> {
        let projects = self.open()?;
        let members = projects.members()?;
        if let Some(project) = numbers::projects_of_tenants(&members).get(&tenant) {
            projects.set_limits(*project, 0, 0)?;
        }
        projects.clear_unused()
    }
}

/// The engine's volumes, on a filesystem that enforces the limits of projects.
struct Projects<'a> {
    volumes: &'a ProjectVolumes,
    directory: OwnedFd,
}

impl Projects<'_> {
    /// The projects of the volumes of all tenants.
    fn members(&self) -> Result<Vec<(TenantId, [Membership; 2])>, QuotaError> {
        let failed = |error| self.volumes.failed("cannot be listed", error);
        let mut members = Vec::new();
        for entry in fs::read_dir(&self.volumes.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(tenant) = name.to_str().and_then(tenant_of) else { continue };
            let Some(contents) = self.contents(tenant)? else { continue };
            let [data, files] = contents.map(|content| content.membership());
            let read = |membership: nix::Result<_>| {
                membership.map_err(|error| self.volumes.failed("cannot be read", error))
            };
            members.push((tenant, [read(data)?, read(files)?]));
        }
        Ok(members)
    }

    /// Both directories of a tenant that containers mount.
    fn contents(&self, tenant: TenantId) -> Result<Option<[Content; 2]>, QuotaError> {
        let open = |volume: String| {
            let opened = Content::open(self.directory.as_fd(), &volume);
            opened.map_err(|error| self.volumes.failed(&format!("has no {volume}"), error))
        };
        let (data, files) = (open(tenant.data_volume())?, open(tenant.files_volume())?);
        Ok(data.zip(files).map(<[Content; 2]>::from))
    }

    fn list(&self) -> Result<Vec<TenantQuota>, QuotaError> {
        let mut quotas = Vec::new();
        for (tenant, project) in numbers::projects_of_tenants(&self.members()?) {
            let ProjectQuota { used_bytes, limit_bytes, limit_inodes, .. } = self.quota(project)?;
            if limit_bytes > 0 && limit_inodes > 0 {
                quotas.push(TenantQuota { tenant, used_bytes, limit_bytes });
            }
        }
        Ok(quotas)
    }

    /// Makes both volumes of a tenant part of one project, or neither. `None` for a tenant that has no volumes, or too many
    /// files.
    fn join(
        &self,
        tenant: TenantId,
        members: &[(TenantId, [Membership; 2])],
        abandoned: &CancellationToken,
    ) -> Result<Option<u32>, QuotaError> {
        let Some(contents) = self.contents(tenant)? else { return Ok(None) };
        let of_tenant = members.iter().find(|(id, _)| *id == tenant);
        let own = of_tenant.map_or([0; 2], |(_, own)| own.map(|membership| membership.project));
        let others = members.iter().filter(|(id, _)| *id != tenant).flat_map(|(_, other)| other);
        let others: HashSet<_> = others.map(|membership| membership.project).collect();
        let has_files = |project| self.quota(project).map(|quota| quota.used_inodes > 0);
        let Some(project) = numbers::choose(tenant, own, &others, has_files)? else {
            return Err(self.volumes.failed("has no free project number", tenant));
        };
        if let Some(error) = contents.iter().find_map(|content| content.check_size(abandoned).err())
        {
            tracing::warn!(%tenant, %error, "volume not made part of a project");
            return Ok(None);
        }
        for content in &contents {
            if let Err(error) = content.join(project, abandoned) {
                // Half a volume would let nothing be moved from one half to the other.
                for content in &contents {
                    let _ = content.leave();
                }
                let what = format!("has a volume of {tenant} that is not made part of a project");
                return Err(self.volumes.failed(&what, error));
            }
        }
        Ok(Some(project))
    }

    /// Clears the limits of projects whose tenant and whose files are gone.
    fn clear_unused(&self) -> Result<(), QuotaError> {
        let members = self.members()?;
        let used: HashSet<_> = members
            .iter()
            .flat_map(|(_, both)| both.map(|membership| membership.project))
            .collect();
        let mut from = PROJECTS.start;
        while let Some((project, quota)) = self.next_quota(from)? {
            if !PROJECTS.contains(&project) {
                break;
            }
            let has_limits = quota.limit_bytes > 0 || quota.limit_inodes > 0;
            if has_limits && quota.used_inodes == 0 && !used.contains(&project) {
                self.set_limits(project, 0, 0)?;
            }
            from = project + 1;
        }
        Ok(())
    }

    fn quota(&self, project: u32) -> Result<ProjectQuota, QuotaError> {
        kernel::quota(&self.directory, project).map_err(|error| self.unknown(project, error))
    }

    fn next_quota(&self, from: u32) -> Result<Option<(u32, ProjectQuota)>, QuotaError> {
        kernel::next_quota(&self.directory, from).map_err(|error| self.unknown(from, error))
    }

    fn unknown(&self, project: u32, error: Errno) -> QuotaError {
        self.volumes.failed(&format!("has an unknown quota of project {project}"), error)
    }

    fn set_limits(&self, project: u32, bytes: u64, inodes: u64) -> Result<(), QuotaError> {
        kernel::set_limits(&self.directory, project, bytes, inodes).map_err(|error| {
            self.volumes.failed(&format!("takes no limits of project {project}"), error)
        })
    }
}
