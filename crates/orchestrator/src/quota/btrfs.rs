//! Limits on btrfs: each volume of a tenant is a subvolume, and one quota group spans both. The `btrfs` command changes the
//! filesystem, because no safe function makes its system calls.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use protocol::TenantId;
use tokio_util::sync::CancellationToken;

use super::folders::{Content, Folder};
use super::qgroups::{Group, GroupId, Groups, Subvolumes};
use super::volumes::VolumeQuotas;
use super::wire::{QuotaError, TenantQuota, VolumeUse};

const PROGRAM: &str = "btrfs";

/// The engine's volumes, if they are on btrfs.
pub(super) struct BtrfsVolumes {
    path: PathBuf,
}

impl BtrfsVolumes {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Makes the group of a tenant as it must be, whatever an earlier call left of it.
    fn span(
        &self,
        btrfs: &Btrfs<'_>,
        subvolumes: [u64; 2],
        limit_bytes: u64,
    ) -> Result<(), QuotaError> {
        let Some(Accounting { groups, .. }) = btrfs.accounting()? else { return Ok(()) };
        let id = GroupId::of_tenant(subvolumes[0]);
        let name = id.to_string();
        let group = groups.get(id);
        if group.is_none() {
            btrfs.run(&["qgroup", "create", &name], &[&self.path])?;
        }
        // Before the members: nothing in them is without a limit.
        if group.and_then(|group| group.limit_bytes) != Some(limit_bytes) {
            btrfs.run(&["qgroup", "limit", &limit_bytes.to_string(), &name], &[&self.path])?;
        }
        for number in subvolumes {
            if !groups.is_member(number, id) {
                let member = GroupId::of_subvolume(number).to_string();
                btrfs.run(&["qgroup", "assign", &member, &name], &[&self.path])?;
            }
        }
        Ok(())
    }

    /// Removes the groups of tenants whose subvolumes are gone.
    fn remove_unused(&self) -> Result<(), QuotaError> {
        let btrfs = self.open();
        let Some(Accounting { groups, .. }) = btrfs.accounting()? else { return Ok(()) };
        for (group, members) in groups.unused(&btrfs.subvolumes()?) {
            let name = group.to_string();
            for member in members.iter().map(GroupId::to_string) {
                btrfs.run(&["qgroup", "remove", &member, &name], &[&self.path])?;
            }
            btrfs.run(&["qgroup", "destroy", &name], &[&self.path])?;
            for member in members.iter().map(GroupId::to_string) {
                // Newer kernels refuse, and remove the group themselves with the last of its data.
                let _ = btrfs.run(&["qgroup", "destroy", &member], &[&self.path]);
            }
        }
        Ok(())
    }

    fn open(&self) -> Btrfs<'_> {
        Btrfs { volumes: &self.path }
    }
}

impl VolumeQuotas for BtrfsVolumes {
    /// Lets the filesystem count, and removes what it still counts for deleted tenants.
    fn prepare(&self) -> Result<(), QuotaError> {
        self.open().enable()?;
        self.remove_unused()
    }

    fn list(&self) -> Result<Vec<TenantQuota>, QuotaError> {
        let btrfs = self.open();
        let Some(Accounting { groups, is_consistent }) = btrfs.accounting()? else {
            return Ok(Vec::new());
        };
        if !is_consistent {
            // The kernel must count everything again, and limits are not exact before. A count under way is no error.
            let _ = btrfs.run(&["quota", "rescan"], &[&self.path]);
            return Ok(Vec::new());
        }
        let enforced = |(tenant, subvolumes): (TenantId, [u64; 2])| {
            let id = GroupId::of_tenant(subvolumes[0]);
            let Group { used_bytes, limit_bytes, .. } = *groups.get(id)?;
            let spans_both = subvolumes.iter().all(|number| groups.is_member(*number, id));
            let limit_bytes = limit_bytes.filter(|_| spans_both)?;
            Some(TenantQuota { tenant, used_bytes, limit_bytes })
        };
        Ok(btrfs.subvolumes()?.tenants().into_iter().filter_map(enforced).collect())
    }

    /// The volumes of a tenant are subvolumes, or become such if they are empty and no container can have mounted them.
    fn set(
        &self,
        tenant: TenantId,
        limit_bytes: u64,
        volume_use: VolumeUse,
        abandoned: &CancellationToken,
    ) -> Result<Option<TenantQuota>, QuotaError> {
        let btrfs = self.open();
        let folders = Folder::both(&self.path, tenant);
        let contents = [folders[0].content()?, folders[1].content()?];
        let may_be = |content: &Content| match content {
            Content::Subvolume => true,
            Content::Empty => volume_use == VolumeUse::New,
            Content::Filled => false,
        };
        if !contents.iter().all(may_be) {
            return Ok(None);
        }
        btrfs.enable()?;
        for (folder, content) in folders.iter().zip(contents) {
            if content == Content::Empty {
                if abandoned.is_cancelled() {
                    return Ok(None);
                }
                folder.become_subvolume(&btrfs)?;
            }
        }
        let [data, files] = folders;
        let subvolumes = [btrfs.subvolume(data.path())?, btrfs.subvolume(files.path())?];
        self.span(&btrfs, subvolumes, limit_bytes)?;
        Ok(self.list()?.into_iter().find(|quota| quota.tenant == tenant))
    }

    /// Removes the content, too, but leaves a volume that is no subvolume to the engine.
    fn remove(&self, tenant: TenantId) -> Result<(), QuotaError> {
        let btrfs = self.open();
        for folder in Folder::both(&self.path, tenant) {
            // The engine may have removed the volume already.
            if matches!(folder.content(), Ok(Content::Subvolume)) {
                folder.remove_subvolume(&btrfs)?;
            }
        }
        self.remove_unused()
    }
}

/// The quota groups and the subvolumes of the filesystem.
struct Accounting {
    groups: Groups,
    is_consistent: bool,
}

/// The `btrfs` command, on the filesystem of the engine's volumes.
pub(super) struct Btrfs<'a> {
    volumes: &'a Path,
}

impl Btrfs<'_> {
    fn enable(&self) -> Result<(), QuotaError> {
        match self.accounting()? {
            Some(_) => Ok(()),
            None => self.run(&["quota", "enable"], &[self.volumes]),
        }
    }

    /// `None` while quotas are off.
    fn accounting(&self) -> Result<Option<Accounting>, QuotaError> {
        match self.output(&["qgroup", "show", "--raw", "-pre"], &[self.volumes]) {
            Ok(Output { stdout, stderr }) => {
                let is_consistent = !stderr.contains("inconsistent");
                Ok(Some(Accounting { groups: Groups::parse(&stdout), is_consistent }))
            }
            Err(QuotaError::Failed(why)) if why.contains("quotas not enabled") => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn subvolumes(&self) -> Result<Subvolumes, QuotaError> {
        let listed = self.output(&["subvolume", "list"], &[self.volumes])?;
        Ok(Subvolumes::parse(&listed.stdout))
    }

    /// The number of the subvolume at `path`.
    fn subvolume(&self, path: &Path) -> Result<u64, QuotaError> {
        let printed = self.output(&["inspect-internal", "rootid"], &[path])?.stdout;
        let number = printed.trim().parse();
        number.map_err(|_| QuotaError::Failed(format!("{PROGRAM} printed no number: {printed:?}")))
    }

    pub(super) fn create_subvolume(&self, path: &Path) -> Result<(), QuotaError> {
        self.run(&["subvolume", "create"], &[path])
    }

    pub(super) fn delete_subvolume(&self, path: &Path) -> Result<(), QuotaError> {
        self.run(&["subvolume", "delete"], &[path])
    }

    fn run(&self, args: &[&str], paths: &[&Path]) -> Result<(), QuotaError> {
        self.output(args, paths).map(drop)
    }

    fn output(&self, args: &[&str], paths: &[&Path]) -> Result<Output, QuotaError> {
        let paths = paths.iter().map(|path| path.as_os_str());
        let args = args.iter().map(OsStr::new).chain(paths);
        let call = format!(
            "{PROGRAM} {}",
            args.clone().collect::<Vec<_>>().join(OsStr::new(" ")).display()
        );
        let output = Command::new(PROGRAM).args(args).env("LC_ALL", "C").output();
        let output = output.map_err(|error| QuotaError::Failed(format!("{call}: {error}")))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        if output.status.success() {
            Ok(Output { stdout, stderr })
        } else {
            Err(QuotaError::Failed(format!("{call}: {}", stderr.trim())))
        }
    }
}

struct Output {
    stdout: String,
    stderr: String,
}
