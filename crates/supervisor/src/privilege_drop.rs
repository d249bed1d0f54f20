//! The irreversible privilege drop of a child between fork and exec, and of PID 1 after the last
//! spawn.
//!
//! A child performs a list of [`DropStep`]s that is built before the fork; [`perform`] runs one
//! step and proves that it holds. The order matters: see [`drop_steps`].

#![expect(unsafe_code, reason = "steps between fork and exec have no safe form")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use nix::unistd::{
    Gid, Uid, chdir, getresgid, getresuid, setegid, seteuid, setgid, setgroups, setresgid,
    setresuid, setuid,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
};

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

/// Makes the child enter `directory` once it has performed the steps of [`install`].
///
/// `Command::current_dir` runs before them, as a root without `CAP_DAC_OVERRIDE`: it could not
/// enter a directory that belongs to the user alone.
pub fn enter_afterwards(command: &mut Command, directory: CString) {
    let enter = move || Ok(chdir(directory.as_c_str())?);
    // SAFETY: between fork and exec `enter` makes one system call on a string that was prepared
    // before the fork; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(enter) };
}

/// Makes the child block no signal: a signal mask survives the exec.
pub fn unblock_signals_of(command: &mut Command) {
    // SAFETY: between fork and exec `unblock_signals` makes system calls on values of its own; it allocates nothing and
    // takes no lock.
    unsafe { command.pre_exec(unblock_signals) };
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
    clear_ambient_capability_set()?;
    hold_only(CapabilitySet::KILL)
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
        DropStep::SetGroup(id) => set_group(Gid::from_raw(id)),
        DropStep::SetUser(id) => set_user(Uid::from_raw(id)),
        DropStep::ClearCapabilities => {
            clear_ambient_capability_set()?;
            hold_only(CapabilitySet::empty())
        }
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

fn pass_fds(fds: &[RawFd]) -> io::Result<()> {
    for (target, fd) in (FIRST_FD..).zip(fds) {
        // SAFETY: dup2 takes numbers; the targets are reserved, so they hold no descriptor of std.
        Errno::result(unsafe { libc::dup2(*fd, target) })?;
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
    // The kernel refuses the first number that is no capability.
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        let Ok(is_held) = capability_is_in_bounding_set(capability) else {
            return proven(number > 0);
        };
        if is_held {
            remove_capability_from_bounding_set(capability)?;
            proven(!capability_is_in_bounding_set(capability)?)?;
        }
    }
    Ok(())
}

fn no_new_privileges() -> io::Result<()> {
    prctl::set_no_new_privs()?;
    proven(prctl::get_no_new_privs()?)
}

fn clear_groups() -> io::Result<()> {
    setgroups(&[])?;
    // Not `getgroups` of nix, which may allocate.
    // SAFETY: a length of 0 means that nothing is written.
    proven(unsafe { libc::getgroups(0, std::ptr::null_mut()) } == 0)
}

fn set_group(id: Gid) -> io::Result<()> {
    setresgid(id, id, id)?;
    let ids = getresgid()?;
    proven([ids.real, ids.effective, ids.saved] == [id; 3])
}

fn set_user(id: Uid) -> io::Result<()> {
    setresuid(id, id, id)?;
    let ids = getresuid()?;
    proven([ids.real, ids.effective, ids.saved] == [id; 3])
}

/// Makes `held` the effective and permitted capabilities, and none the inheritable ones.
fn hold_only(held: CapabilitySet) -> io::Result<()> {
    let inheritable = CapabilitySet::empty();
    let sets = CapabilitySets { effective: held, permitted: held, inheritable };
    set_capabilities(None, sets)?;
    proven(capabilities(None)? == sets)
}

fn prove_irreversible() -> io::Result<()> {
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    let attempts = [setuid(user), seteuid(user), setgid(group), setegid(group), setgroups(&[])];
    proven(attempts.iter().all(Result::is_err))
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
        let failed = if root { prove_irreversible() } else { set_user(Uid::from_raw(0)) };
        assert!(failed.is_err());
    }
}
