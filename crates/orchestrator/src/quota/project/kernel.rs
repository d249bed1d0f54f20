//! The system calls of project quotas: the project of a directory or a file, and the limits and the use of a project.
//! XFS and ext4 take the same calls.

#![expect(unsafe_code, reason = "no safe function makes these calls")]

use std::ffi::{c_char, c_long};
use std::os::fd::{AsFd, AsRawFd as _};

use nix::errno::Errno;
use nix::libc;

/// The project of a directory or a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) project: u32,
    /// Whether new files in the directory become part of the project. Then no file of another project can be moved into it.
    pub(super) is_inherited: bool,
}

/// The use of a project as the kernel counts it, and its limits; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ProjectQuota {
    pub(super) used_bytes: u64,
    pub(super) used_inodes: u64,
    pub(super) limit_bytes: u64,
    pub(super) limit_inodes: u64,
}

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

/// `FS_XFLAG_PROJINHERIT`.
const INHERITED: u32 = 0x200;

nix::ioctl_read!(get_attributes, b'X', 31, Attributes);
nix::ioctl_write_ptr!(set_attributes, b'X', 32, Attributes);

pub(super) fn membership(file: impl AsFd) -> nix::Result<Membership> {
    let Attributes { flags, project, .. } = attributes(&file)?;
    Ok(Membership { project, is_inherited: flags & INHERITED != 0 })
}

/// Makes a file a part of a project, and its use that of the project.
///
/// # Errors
/// [`Errno::EDQUOT`] on ext4 if the limits of the project leave no room for it.
pub(super) fn set_membership(file: impl AsFd, membership: Membership) -> nix::Result<()> {
    let Membership { project, is_inherited } = membership;
    let mut attributes = attributes(&file)?;
    attributes.project = project;
    attributes.flags =
        if is_inherited { attributes.flags | INHERITED } else { attributes.flags & !INHERITED };
    // SAFETY: the descriptor is open, and the kernel reads a structure of the size that is part of the call's number.
    unsafe { set_attributes(file.as_fd().as_raw_fd(), &raw const attributes) }.map(drop)
}

fn attributes(file: impl AsFd) -> nix::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the descriptor is open, and the kernel writes a structure of the size that is part of the call's number.
    unsafe { get_attributes(file.as_fd().as_raw_fd(), &raw mut attributes) }?;
    Ok(attributes)
}

/// `struct fs_disk_quota` of `linux/dqblk_xfs.h`.
#[repr(C)]
#[derive(Default)]
struct DiskQuota {
    version: i8,
    flags: i8,
    changed: u16,
    project: u32,
    block_hard_limit: u64,
    block_soft_limit: u64,
    inode_hard_limit: u64,
    inode_soft_limit: u64,
    blocks: u64,
    inodes: u64,
    timers: [i32; 2],
    warnings: [u16; 2],
    timers_high: [i8; 4],
    realtime_blocks: [u64; 3],
    realtime_timer: i32,
    realtime_warnings: u16,
    padding: [i16; 5],
}

/// `struct fs_quota_stat` of the same file.
#[repr(C)]
#[derive(Default)]
struct QuotaState {
    version: i8,
    flags: u16,
    padding: i8,
    users: QuotaFile,
    groups: QuotaFile,
    in_core: u32,
    timers: [i32; 3],
    warnings: [u16; 2],
}

/// `struct fs_qfilestat`.
#[repr(C)]
#[derive(Default)]
struct QuotaFile {
    inode: u64,
    blocks: u64,
    extents: u32,
}

const _: () = assert!(size_of::<DiskQuota>() == 112 && size_of::<QuotaState>() == 80);

/// A call about a structure that the kernel reads or writes.
trait Command {
    /// The number among the calls of XFS, which ext4 takes, too.
    const NUMBER: u8;
    type Data;
}

struct GetQuota;
struct SetLimits;
struct GetState;
struct GetNextQuota;

impl Command for GetQuota {
    const NUMBER: u8 = 3;
    type Data = DiskQuota;
}
impl Command for SetLimits {
    const NUMBER: u8 = 4;
    type Data = DiskQuota;
}
impl Command for GetState {
    const NUMBER: u8 = 5;
    type Data = QuotaState;
}
impl Command for GetNextQuota {
    const NUMBER: u8 = 9;
    type Data = DiskQuota;
}

/// Limits count blocks of this size.
const BLOCK_BYTES: u64 = 512;
const DISK_QUOTA_VERSION: i8 = 1;
/// `FS_PROJ_QUOTA`.
const OF_PROJECT: i8 = 2;
/// `FS_DQ_ISOFT | FS_DQ_IHARD | FS_DQ_BSOFT | FS_DQ_BHARD`.
const LIMITS: u16 = 0b1111;
/// `FS_QUOTA_PDQ_ENFD`.
const PROJECT_LIMITS_ENFORCED: u16 = 1 << 5;

/// Whether the filesystem refuses what is beyond the limit of a project. `file` is any on the filesystem, as below.
///
/// # Errors
/// [`Errno::ENOSYS`] without quotas of any kind, and without the system call.
pub(super) fn enforces_limits(file: impl AsFd) -> nix::Result<bool> {
    let mut state = QuotaState { version: 1, ..QuotaState::default() };
    call::<GetState>(file, 0, &mut state)?;
    Ok(state.flags & PROJECT_LIMITS_ENFORCED != 0)
}

pub(super) fn quota(file: impl AsFd, project: u32) -> nix::Result<ProjectQuota> {
    let mut quota = DiskQuota::default();
    match call::<GetQuota>(file, project, &mut quota) {
        // Nothing was ever part of the project.
        Err(Errno::ENOENT) => Ok(ProjectQuota::default()),
        done => done.map(|()| quota.into()),
    }
}

/// The first project from a number on that has limits, or files.
pub(super) fn next_quota(file: impl AsFd, from: u32) -> nix::Result<Option<(u32, ProjectQuota)>> {
    let mut quota = DiskQuota::default();
    match call::<GetNextQuota>(file, from, &mut quota) {
        Err(Errno::ENOENT) => Ok(None),
        done => done.map(|()| Some((quota.project, quota.into()))),
    }
}

/// Sets the limits of a project, which hold from then on; 0 is none.
pub(super) fn set_limits(
    file: impl AsFd,
    project: u32,
    bytes: u64,
    inodes: u64,
) -> nix::Result<()> {
    let mut quota = DiskQuota {
        version: DISK_QUOTA_VERSION,
        flags: OF_PROJECT,
        changed: LIMITS,
        project,
        block_hard_limit: bytes.div_ceil(BLOCK_BYTES),
        inode_hard_limit: inodes,
        ..DiskQuota::default()
    };
    call::<SetLimits>(file, project, &mut quota)
}

fn call<C: Command>(file: impl AsFd, project: u32, data: &mut C::Data) -> nix::Result<()> {
    const PROJECT_QUOTA: c_long = 2;
    let command = c_long::from(b'X') << 16 | c_long::from(C::NUMBER) << 8 | PROJECT_QUOTA;
    let (file, project) = (c_long::from(file.as_fd().as_raw_fd()), c_long::from(project));
    // SAFETY: the descriptor is open, and the kernel reads or writes the structure that belongs to the command.
    let done = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            file,
            command,
            project,
            std::ptr::from_mut(data).cast::<c_char>(),
        )
    };
    Errno::result(done).map(drop)
}

impl From<DiskQuota> for ProjectQuota {
    fn from(quota: DiskQuota) -> Self {
        Self {
            used_bytes: quota.blocks.saturating_mul(BLOCK_BYTES),
            used_inodes: quota.inodes,
            limit_bytes: quota.block_hard_limit.saturating_mul(BLOCK_BYTES),
            limit_inodes: quota.inode_hard_limit,
        }
    }
}
