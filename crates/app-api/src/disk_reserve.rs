//! The space that files of app-api leave on their disk: the database may lie on the same one.

use rustix::fs::StatVfs;

/// In bytes.
pub const RESERVE_BYTES: u64 = 1 << 30;

/// Whether less than `reserve` bytes are left for app-api.
pub fn is_reached(disk: &StatVfs, reserve: u64) -> bool {
    disk.f_bavail.saturating_mul(disk.f_frsize) < reserve
}
