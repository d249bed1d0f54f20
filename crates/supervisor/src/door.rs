//! The one-way door: how a child gets from PID 1's powers to none, and how PID 1 gives up its own.
//!
//! What a child does between fork and exec is a list of [`Lock`]s, made before the fork; [`turn`] performs one
//! and proves that it holds. The order matters: see [`locks`]. This is the only file with unsafe code.

#![expect(unsafe_code, reason = "steps between fork and exec have no safe form")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;

use crate::services::Account;

/// The first descriptor that a child is handed.
pub const FIRST: RawFd = 3;
/// How many descriptors a child is handed at most: four listeners and the link.
pub const MOST: usize = 5;

/// One step through the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Puts the descriptors to hand over where the child looks for them.
    HandOver {
        fds: [RawFd; MOST],
        count: usize,
    },
    /// Nothing else passes the exec. Not closed at once: std reports a failed exec over one of them.
    CloseOnExec {
        from: RawFd,
    },
    /// PID 1 blocks the signals that it reads from a descriptor, and a mask survives the exec.
    UnblockSignals,
    DropBoundingSet,
    NoNewPrivileges,
    ClearGroups,
    SetGroup(u32),
    SetUser(u32),
    ClearCapabilities,
    ProveNoReturn,
}

/// All steps, in order.
pub type Locks = [Lock; 10];

/// The way to `account`. The bounding set needs a capability that the change of user takes away; groups need
/// one too, so they go before the user; what is proven last is that none of it can be undone.
pub fn locks(account: Account, hand_over: &[BorrowedFd<'_>]) -> Locks {
    assert!(hand_over.len() <= MOST, "at most {MOST} descriptors are reserved");
    let mut fds = [-1; MOST];
    for (place, fd) in fds.iter_mut().zip(hand_over) {
        *place = fd.as_raw_fd();
    }
    let count = hand_over.len();
    let after = (FIRST..).nth(count).unwrap_or(RawFd::MAX);
    [
        Lock::HandOver { fds, count },
        Lock::CloseOnExec { from: after },
        Lock::UnblockSignals,
        Lock::DropBoundingSet,
        Lock::NoNewPrivileges,
        Lock::ClearGroups,
        Lock::SetGroup(account.id),
        Lock::SetUser(account.id),
        Lock::ClearCapabilities,
        Lock::ProveNoReturn,
    ]
}

/// Makes the child go through `locks` before its exec; a lock that does not turn is named on `complaints`.
/// Never together with `Command::uid`, which would run first and take away what the first locks need.
pub fn install(command: &mut Command, locks: Locks, complaints: BorrowedFd<'_>) {
    let complaints = complaints.as_raw_fd();
    let walk = move || locks.iter().try_for_each(|lock| turn_or_tell(lock, complaints));
    // SAFETY: between fork and exec `walk` makes system calls on values that were prepared before the fork; it
    // allocates nothing and takes no lock.
    unsafe { command.pre_exec(walk) };
}

/// Keeps the descriptors that children are handed free of PID 1's own, which a hand-over would overwrite.
pub fn reserve() -> io::Result<Vec<OwnedFd>> {
    let mut kept = Vec::new();
    loop {
        let fd = open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        if usize::try_from(fd.as_raw_fd() - FIRST).is_ok_and(|place| place >= MOST) {
            return Ok(kept);
        }
        kept.push(fd);
    }
}

/// PID 1 after the last spawn: it may signal processes of any user, and nothing more.
pub fn keep_only_kill() -> io::Result<()> {
    turn(&Lock::DropBoundingSet)?;
    turn(&Lock::NoNewPrivileges)?;
    clear_ambient()?;
    set_capabilities(1 << CAP_KILL)
}

/// Tells which lock did not turn: over std's way back comes a bare error number.
fn turn_or_tell(lock: &Lock, complaints: RawFd) -> io::Result<()> {
    turn(lock).inspect_err(|_| {
        for part in ["[supervisor] the way down failed at ", lock.name(), "\n"] {
            // SAFETY: the pointer and the length are those of a string.
            unsafe { libc::write(complaints, part.as_ptr().cast(), part.len()) };
        }
    })
}

/// Performs one lock, and fails unless it holds afterwards.
pub fn turn(lock: &Lock) -> io::Result<()> {
    match *lock {
        Lock::HandOver { fds, count } => hand_over(&fds[..count]),
        Lock::CloseOnExec { from } => close_on_exec(from),
        Lock::UnblockSignals => unblock_signals(),
        Lock::DropBoundingSet => drop_bounding_set(),
        Lock::NoNewPrivileges => no_new_privileges(),
        Lock::ClearGroups => clear_groups(),
        Lock::SetGroup(id) => set_group(id),
        Lock::SetUser(id) => set_user(id),
        Lock::ClearCapabilities => clear_ambient().and_then(|()| set_capabilities(0)),
        Lock::ProveNoReturn => prove_no_return(),
    }
}

impl Lock {
    const fn name(&self) -> &'static str {
        match self {
            Self::HandOver { .. } => "handing over the sockets",
            Self::CloseOnExec { .. } => "closing what must not leak",
            Self::UnblockSignals => "unblocking the signals",
            Self::DropBoundingSet => "dropping the bounding set",
            Self::NoNewPrivileges => "no_new_privs",
            Self::ClearGroups => "clearing the groups",
            Self::SetGroup(_) => "setting the group",
            Self::SetUser(_) => "setting the user",
            Self::ClearCapabilities => "clearing the capabilities",
            Self::ProveNoReturn => "proving that there is no way back",
        }
    }
}

const CAP_KILL: u32 = 5;
const CAPABILITIES_V3: u32 = 0x2008_0522;
/// Kernels know fewer; the first unknown number ends a walk over all.
const MOST_CAPABILITIES: libc::c_ulong = 64;
const NONE: libc::c_ulong = 0;

fn hand_over(fds: &[RawFd]) -> io::Result<()> {
    for (target, fd) in (FIRST..).zip(fds) {
        // SAFETY: dup2 takes numbers; the targets are reserved, so nothing of std's lives there.
        check(unsafe { libc::dup2(*fd, target) })?;
    }
    Ok(())
}

fn close_on_exec(from: RawFd) -> io::Result<()> {
    let (first, last) = (from.cast_unsigned(), libc::c_uint::MAX);
    // SAFETY: the call takes numbers and closes nothing.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 {
        return Ok(());
    }
    // Kernels before 5.11. What is open beyond this was opened by us, close-on-exec.
    for fd in from..1024 {
        // SAFETY: the call takes numbers; a descriptor that is not open answers EBADF, which is fine.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

fn unblock_signals() -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    proven(SigSet::thread_get_mask()? == SigSet::empty())
}

fn drop_bounding_set() -> io::Result<()> {
    for capability in 0..MOST_CAPABILITIES {
        // SAFETY: prctl with these options takes numbers.
        let held = unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, NONE, NONE, NONE) };
        if held < 0 {
            return proven(capability > 0);
        }
        if held == 1 {
            // SAFETY: as above.
            check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, NONE, NONE, NONE) })?;
        }
        // SAFETY: as above.
        let held = unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, NONE, NONE, NONE) };
        proven(held == 0)?;
    }
    Ok(())
}

fn no_new_privileges() -> io::Result<()> {
    let one: libc::c_ulong = 1;
    // SAFETY: prctl with these options takes numbers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, one, NONE, NONE, NONE) })?;
    // SAFETY: as above.
    proven(unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, NONE, NONE, NONE, NONE) } == 1)
}

fn clear_groups() -> io::Result<()> {
    // SAFETY: a length of 0 means that nothing is read or written.
    check(unsafe { libc::setgroups(0, std::ptr::null()) })?;
    // SAFETY: as above.
    proven(unsafe { libc::getgroups(0, std::ptr::null_mut()) } == 0)
}

fn set_group(id: u32) -> io::Result<()> {
    let (mut real, mut effective, mut saved) = (0, 0, 0);
    // SAFETY: the call takes numbers.
    check(unsafe { libc::setresgid(id, id, id) })?;
    // SAFETY: the pointers are to locals.
    check(unsafe { libc::getresgid(&raw mut real, &raw mut effective, &raw mut saved) })?;
    proven((real, effective, saved) == (id, id, id))
}

fn set_user(id: u32) -> io::Result<()> {
    let (mut real, mut effective, mut saved) = (0, 0, 0);
    // SAFETY: the call takes numbers.
    check(unsafe { libc::setresuid(id, id, id) })?;
    // SAFETY: the pointers are to locals.
    check(unsafe { libc::getresuid(&raw mut real, &raw mut effective, &raw mut saved) })?;
    proven((real, effective, saved) == (id, id, id))
}

fn clear_ambient() -> io::Result<()> {
    let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong;
    // SAFETY: prctl with these options takes numbers.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, clear, NONE, NONE, NONE) })
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Makes `low` (of the first 32) all that is effective and permitted, and nothing inheritable.
fn set_capabilities(low: u32) -> io::Result<()> {
    let mut header = CapabilityHeader { version: CAPABILITIES_V3, pid: 0 };
    let first = CapabilityWord { effective: low, permitted: low, inheritable: 0 };
    let wanted = [first, CapabilityWord::default()];
    let mut seen = [CapabilityWord::default(); 2];
    // SAFETY: header and two words are what version 3 of the call reads.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, wanted.as_ptr()) })?;
    // SAFETY: header and two words are what version 3 of the call reads and writes.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, seen.as_mut_ptr()) })?;
    proven(seen == wanted)
}

fn prove_no_return() -> io::Result<()> {
    // SAFETY: the calls take numbers; each is meant to fail.
    let returned =
        unsafe { [libc::setuid(0), libc::seteuid(0), libc::setgid(0), libc::setegid(0)] };
    // SAFETY: the length says that nothing is read.
    let grouped = unsafe { libc::setgroups(0, std::ptr::null()) };
    proven(returned == [-1; 4] && grouped == -1)
}

fn check(result: impl Into<i64>) -> io::Result<()> {
    if result.into() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An error that needs no allocation.
fn proven(holds: bool) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ENOTRECOVERABLE)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::Zone;

    #[test]
    fn the_order_of_the_locks() {
        let names = locks(Zone::Platform.account(), &[]).map(|lock| format!("{lock:?}"));
        insta::assert_snapshot!(names.join("\n"), @r"
        HandOver { fds: [-1, -1, -1, -1, -1], count: 0 }
        CloseOnExec { from: 3 }
        UnblockSignals
        DropBoundingSet
        NoNewPrivileges
        ClearGroups
        SetGroup(1001)
        SetUser(1001)
        ClearCapabilities
        ProveNoReturn
        ");
    }

    #[test]
    fn whoever_can_go_back_is_stopped() {
        // As root every way back is open, so the proof must fail; without root the way down itself does.
        let root = nix::unistd::geteuid().is_root();
        let failed = if root { prove_no_return() } else { set_user(0) };
        assert!(failed.is_err());
    }
}
