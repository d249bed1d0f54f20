//! Child processes of a bench: pinned, watched, and ended with the bench.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::tenant::proportional_set_size;

/// A process that ends with this value, and with the bench itself, whatever ends the bench.
pub(super) struct ChildProcess {
    name: String,
    child: Child,
}

pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
pub(super) const INTERVAL: Duration = Duration::from_millis(5);

/// Builds a command that the kernel ends with the bench, on one CPU if one is given.
pub(super) fn command<'a>(cpu: Option<usize>, args: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]);
    if let Some(cpu) = cpu {
        command.args(["taskset", "--cpu-list", &cpu.to_string()]);
    }
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Returns the first and the last CPU that this process may use. Both are the same on a single CPU.
pub(super) fn cpus() -> Result<(usize, usize)> {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))?;
    let usable = || (0..nix::sched::CpuSet::count()).filter(|cpu| set.is_set(*cpu) == Ok(true));
    Ok((usable().next().context("no CPU")?, usable().next_back().context("no CPU")?))
}

impl ChildProcess {
    pub(super) fn start(name: &str, command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// Waits for a condition without an event, as long as the process lives.
    pub(super) fn until(&mut self, what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
        let start = crate::now();
        while !holds() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status} before {what}", self.name);
            }
            if start.elapsed() > TIMEOUT * 2 {
                bail!("{}: no {what}", self.name);
            }
            std::thread::sleep(INTERVAL);
        }
        Ok(())
    }

    /// Returns the CPU time so far of the process and of all its descendants.
    pub(super) fn cpu_time(&self) -> Result<Duration> {
        self.family()?.iter().map(|pid| cpu_time(*pid)).sum()
    }

    /// Returns the resident memory of the process and of all its descendants, in bytes.
    pub(super) fn resident(&self) -> Result<f64> {
        self.family()?.iter().map(proportional_set_size).sum()
    }

    /// Sends the signal for a graceful end, and waits for the end.
    pub(super) fn end(mut self) -> Result<()> {
        signal(self.child.id(), "TERM")?;
        let start = crate::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > TIMEOUT {
                bail!("{} does not end", self.name);
            }
            std::thread::sleep(INTERVAL);
        }
        Ok(())
    }

    pub(super) fn stdout_says(&mut self, line: &str) -> Result<()> {
        let stdout = self.child.stdout.as_mut().context("its output is not piped")?;
        let mut printed = vec![0; line.len()];
        let read = stdout.read_exact(&mut printed);
        read.with_context(|| format!("{} ended before it printed {line:?}", self.name))?;
        Ok(())
    }

    fn family(&self) -> Result<Vec<u32>> {
        let mut family = vec![self.child.id()];
        let all = processes()?;
        let mut at = 0;
        while let Some(parent) = family.get(at).copied() {
            family.extend(all.iter().filter(|(_, above)| *above == parent).map(|(pid, _)| *pid));
            at += 1;
        }
        Ok(family)
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // A master notifies its workers; a second signal would orphan them.
            let _ = signal(self.child.id(), "TERM");
            let _ = self.child.wait();
        }
    }
}

fn signal(pid: u32, name: &str) -> Result<()> {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status()?;
    if !status.success() {
        bail!("cannot signal {pid}");
    }
    Ok(())
}

/// Lists each process with its parent.
fn processes() -> Result<Vec<(u32, u32)>> {
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, after_name(&stat)?.nth(1)?.parse().ok()?))
    };
    Ok(std::fs::read_dir("/proc")?.filter_map(read).collect())
}

/// Returns the fields of a process's stat from its state on; the name before them may contain any
/// character.
fn after_name(stat: &str) -> Option<impl Iterator<Item = &str>> {
    Some(stat.rsplit_once(") ")?.1.split(' '))
}

/// Returns utime + stime of all present and past threads, in nanoseconds. The values in `stat` have
/// steps of 10 ms.
pub(super) fn cpu_time(pid: u32) -> Result<Duration> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
    Ok(nix::time::clock_getcpuclockid(pid)?.now()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_stat_may_hold_anything() {
        let stat = "12 (a) b (c) S 7 12 0";
        assert_eq!(after_name(stat).unwrap().nth(1), Some("7"));
    }

    #[test]
    fn a_family_is_a_process_and_all_below_it() {
        let args = ["sh", "-c", "sleep 60 & sleep 60 & wait"];
        let mut shell = ChildProcess::start("sh", &mut command(None, args)).unwrap();
        let below = shell.child.id();
        shell
            .until("children", || {
                processes().unwrap().iter().filter(|(_, above)| *above == below).count() == 2
            })
            .unwrap();
        let family = shell.family().unwrap();
        assert_eq!(family.len(), 3);
        assert!(shell.resident().unwrap() > 0.0);
        for pid in &family[1..] {
            signal(*pid, "KILL").unwrap();
        }
    }
}
