//! The orchestrator starts as root only to find the group of the engine's socket. Then the process
//! becomes an ordinary user with that group, permanently.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use nix::unistd::{Gid, Uid, getegid, geteuid, getgroups, setgroups, setresgid, setresuid, setuid};
use protocol::inside::CIAL_UID;

/// Must be called before the first thread starts, because each thread has its own ids. Does nothing
/// for a process that is not root.
pub(crate) fn drop_root(socket: &Path) -> anyhow::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let group = std::fs::metadata(socket)
        .with_context(|| {
            format!(
                "cannot see the engine's socket {}: is it mounted? (CIAL_DOCKER_SOCKET)",
                socket.display()
            )
        })?
        .gid();
    let (user, own, group) =
        (Uid::from_raw(CIAL_UID), Gid::from_raw(CIAL_UID), Gid::from_raw(group));
    setgroups(&[group]).context("setgroups")?;
    setresgid(own, own, own).context("setresgid")?;
    setresuid(user, user, user).context("setresuid")?;
    prove(user, own, group)
}

fn prove(user: Uid, own: Gid, group: Gid) -> anyhow::Result<()> {
    ensure!(geteuid() == user && getegid() == own, "still another user");
    ensure!(getgroups()? == [group], "groups are left over");
    ensure!(setuid(Uid::from_raw(0)).is_err(), "the way back to root is open");
    Ok(())
}
