//! The irreversible privilege drop of a child between fork and exec, and of PID 1 after the last
//! spawn.
//!
//! A child performs a list of [`DropStep`]s that is built before the fork; [`perform`] runs one
//! step and proves that it holds. The order matters: see [`drop_steps`]. This is the only file with
//! unsafe code.

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

/// The first descriptor that a child inherits.
pub const FIRST_FD: RawFd = 3;
/// The maximum number of descriptors that a child inherits: four listeners and the readiness link.
pub const MAX_FDS: usize = 5;

/// One step of the privilege drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropStep {
    /// Moves the descriptors to the numbers at which the child expects them.
    PassFds {
        fds: [RawFd; MAX_FDS],
        count: usize,
    },
    /// Marks every other descriptor close-on-exec. An immediate close would break std's report of a
    /// failed exec.
    CloseOnExec {
        from: RawFd,
    },
    /// PID 1 blocks the signals that it reads from a descriptor, and a signal mask survives the
    /// exec.
    UnblockSignals,
    DropBoundingSet,
    NoNewPrivileges,
    ClearGroups,
    SetGroup(u32),
    SetUser(u32),
    ClearCapabilities,
    ProveIrreversible,
}

/// All steps, in order.
pub type DropSteps = [DropStep; 10];

/// The steps that lead to `account`. Dropping the bounding set and clearing the groups need
/// capabilities that the change of user takes away, so both precede that change. The last step
/// proves that nothing can be undone.
///
/// # Panics
/// With more than [`MAX_FDS`] descriptors.
pub fn drop_steps(account: Account, inherited: &[BorrowedFd<'_>]) -> DropSteps {
    assert!(inherited.len() <= MAX_FDS, "at most {MAX_FDS} descriptors are reserved");
    let mut fds = [-1; MAX_FDS];
    for (place, fd) in fds.iter_mut().zip(inherited) {
        *place = fd.as_raw_fd();
    }
    let count = inherited.len();
    let after = (FIRST_FD..).nth(count).unwrap_or(RawFd::MAX);
    [
        DropStep::PassFds { fds, count },
        DropStep::CloseOnExec { from: after },
        DropStep::UnblockSignals,
        DropStep::DropBoundingSet,
        DropStep::NoNewPrivileges,
        DropStep::ClearGroups,
        DropStep::SetGroup(account.id),
        DropStep::SetUser(account.id),
        DropStep::ClearCapabilities,
        DropStep::ProveIrreversible,
    ]
}

/// Makes the child perform `steps` before its exec; a step that fails is named on the descriptor
/// `errors`.
///
/// Never use this together with `Command::uid`, which would run first and take away what the first
/// steps need.
pub fn install(command: &mut Command, steps: DropSteps, errors: BorrowedFd<'_>) {
    let errors = errors.as_raw_fd();
    let perform_all = move || steps.iter().try_for_each(|step| perform_or_report(step, errors));
    // SAFETY: between fork and exec `perform_all` makes system calls on values that were prepared
    // before the fork; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(perform_all) };
}

/// Occupies the descriptor numbers that children use, so that passing descriptors overwrites none
/// of PID 1's own.
///
/// # Errors
/// When `/dev/null` cannot be opened.
pub fn reserve_fds() -> io::Result<Vec<OwnedFd>> {
    let mut kept = Vec::new();
    loop {
        let fd = open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        if usize::try_from(fd.as_raw_fd() - FIRST_FD).is_ok_and(|place| place >= MAX_FDS) {
            return Ok(kept);
        }
        kept.push(fd);
    }
}

/// Drops the privileges of PID 1 after the last spawn: it keeps `CAP_KILL` and nothing else.
///
/// # Errors
/// When a step fails or does not hold afterwards.
pub fn keep_only_cap_kill() -> io::Result<()> {
    perform(&DropStep::DropBoundingSet)?;
    perform(&DropStep::NoNewPrivileges)?;
    clear_ambient()?;
    set_capabilities(1 << CAP_KILL)
}

/// Names the failed step: std's own report carries an error number only.
fn perform_or_report(step: &DropStep, errors: RawFd) -> io::Result<()> {
    perform(step).inspect_err(|_| {
        for part in ["[supervisor] privilege drop failed: step=", step.name(), "\n"] {
            // SAFETY: the pointer and the length are those of a string.
            unsafe { libc::write(errors, part.as_ptr().cast(), part.len()) };
        }
    })
}

/// Performs one step.
///
/// # Errors
/// When the step fails or does not hold afterwards.
pub fn perform(step: &DropStep) -> io::Result<()> {
    match *step {
        DropStep::PassFds { fds, count } => pass_fds(&fds[..count]),
        DropStep::CloseOnExec { from } => close_on_exec(from),
        DropStep::UnblockSignals => unblock_signals(),
        DropStep::DropBoundingSet => drop_bounding_set(),
        DropStep::NoNewPrivileges => no_new_privileges(),
        DropStep::ClearGroups => clear_groups(),
        DropStep::SetGroup(id) => set_group(id),
        DropStep::SetUser(id) => set_user(id),
        DropStep::ClearCapabilities => clear_ambient().and_then(|()| set_capabilities(0)),
        DropStep::ProveIrreversible => prove_irreversible(),
    }
}

impl DropStep {
    const fn name(&self) -> &'static str {
        match self {
            Self::PassFds { .. } => "pass descriptors",
            Self::CloseOnExec { .. } => "close-on-exec",
            Self::UnblockSignals => "unblock signals",
            Self::DropBoundingSet => "drop the bounding set",
            Self::NoNewPrivileges => "no_new_privs",
            Self::ClearGroups => "clear the groups",
            Self::SetGroup(_) => "set the group",
            Self::SetUser(_) => "set the user",
            Self::ClearCapabilities => "clear the capabilities",
            Self::ProveIrreversible => "prove that nothing can be undone",
        }
    }
}

const CAP_KILL: u32 = 5;
const CAPABILITIES_V3: u32 = 0x2008_0522;
/// More than any kernel knows; the loop ends at the first unknown number.
const MAX_CAPABILITIES: libc::c_ulong = 64;
const NONE: libc::c_ulong = 0;

fn pass_fds(fds: &[RawFd]) -> io::Result<()> {
    for (target, fd) in (FIRST_FD..).zip(fds) {
        // SAFETY: dup2 takes numbers; the targets are reserved, so they hold no descriptor of std.
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
    // Kernels before 5.11. Descriptors beyond 1024 are PID 1's own and are close-on-exec already.
    for fd in from..1024 {
        // SAFETY: the call takes numbers; a descriptor that is not open answers EBADF, which is
        // fine.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

fn unblock_signals() -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    proven(SigSet::thread_get_mask()? == SigSet::empty())
}

fn drop_bounding_set() -> io::Result<()> {
    for capability in 0..MAX_CAPABILITIES {
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

/// Sets the effective and permitted capabilities to the bits in `low` (of the first 32) and the
/// inheritable ones to none.
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

fn prove_irreversible() -> io::Result<()> {
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

/// Fails with an error that needs no allocation.
fn proven(holds: bool) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ENOTRECOVERABLE)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::Zone;

    #[test]
    fn the_order_of_the_steps() {
        let names = drop_steps(Zone::Platform.account(), &[]).map(|step| format!("{step:?}"));
        insta::assert_snapshot!(names.join("\n"), @r"
        PassFds { fds: [-1, -1, -1, -1, -1], count: 0 }
        CloseOnExec { from: 3 }
        UnblockSignals
        DropBoundingSet
        NoNewPrivileges
        ClearGroups
        SetGroup(1001)
        SetUser(1001)
        ClearCapabilities
        ProveIrreversible
        ");
    }

    #[test]
    fn a_process_that_can_regain_root_fails_the_proof() {
        // Root can undo every step, so the proof must fail. Without root, the change of user itself
        // fails.
        let root = nix::unistd::geteuid().is_root();
        let failed = if root { prove_irreversible() } else { set_user(0) };
        assert!(failed.is_err());
    }
}
