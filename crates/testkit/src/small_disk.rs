//! A filesystem of a fixed size that a test can fill. Needs root and loop devices.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::TempDir;

/// The kind of a [`SmallDisk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem {
    Ext4,
    /// At least 120 MB.
    Btrfs,
}

/// A filesystem in a file, mounted until it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
    // Dropped last: it holds the file and the mount point.
    dir: TempDir,
}

impl SmallDisk {
    /// Creates and mounts an empty filesystem of `bytes`, all of which root and others may use.
    ///
    /// # Errors
    /// The process is not root, or the machine has no loop device or no `mkfs.ext4`.
    pub fn mount(purpose: &str, bytes: u64) -> Result<Self> {
        Self::mount_as(Filesystem::Ext4, purpose, bytes)
    }

    /// Like [`Self::mount`], with the kind of filesystem.
    ///
    /// # Errors
    /// The process is not root, or the machine has no loop device or no command that makes such a filesystem.
    pub fn mount_as(filesystem: Filesystem, purpose: &str, bytes: u64) -> Result<Self> {
        let dir = TempDir::new(purpose)?;
        let (image, path) = (dir.path().join("image"), dir.path().join("disk"));
        File::create(&image)?.set_len(bytes)?;
        std::fs::create_dir(&path)?;
        let mut make = match filesystem {
            Filesystem::Ext4 => command("mkfs.ext4", &["-q", "-F", "-m", "0"]),
            Filesystem::Btrfs => command("mkfs.btrfs", &["-q", "-m", "single"]),
        };
        run(make.arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).args([&image, &path]))
            .context("be root on a machine with loop devices")?;
        Ok(Self { path, dir })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A directory that lies on another filesystem and is removed with this one.
    pub fn outside(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file until no byte is free.
    ///
    /// # Errors
    /// Writing fails for another reason.
    pub fn fill(&self) -> Result<()> {
        let mut filler = File::options().append(true).create(true).open(self.filler())?;
        let piece = vec![0; 1 << 20];
        for size in [1 << 20, 4 << 10, 1] {
            loop {
                match filler.write_all(&piece[..size]).and_then(|()| filler.sync_data()) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Undoes [`Self::fill`].
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn make_space(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that still ends may have a file open.
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.path));
    }
}

fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", stderr.trim());
    Ok(())
}
