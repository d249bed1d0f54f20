//! The folder `.cial` of a tenant's files, in which starts of an app remember its hooks. It belongs to the app's user:
//! whatever the app put in the place of a file or a folder of ours is moved out of the way, and a hook that is forgotten runs
//! again.

use std::cell::{Cell, OnceCell};
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::syncfs;
use protocol::inside;

use super::Hook;

/// An id of an image and a command, which has at most the size of a manifest, as JSON.
const MAX_STATE_BYTES: u64 = 256 << 10;
/// The content of the file of `before_first_start`.
const DONE: &str = "done";
/// Holds what is to be removed.
const DISCARDED: &str = "discarded";

/// The hooks that succeeded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Succeeded {
    pub(super) first_start: bool,
    /// The release of the last `migrate`.
    pub(super) release: Option<String>,
}

pub(super) struct StateFolder {
    /// The tenant's files.
    pub(super) files: PathBuf,
    path: PathBuf,
    /// The folder of this process for what is to be removed, and the number of its next entry.
    bin: OnceCell<PathBuf>,
    next: Cell<u32>,
}

impl StateFolder {
    pub(super) fn open(files: &Path) -> io::Result<Self> {
        let path = files.join(inside::HOOK_STATE_DIR);
        own_folder(&path)?;
        Ok(Self { files: files.to_owned(), path, bin: OnceCell::new(), next: Cell::new(0) })
    }

    pub(super) fn succeeded(&self) -> io::Result<Succeeded> {
        Ok(Succeeded {
            first_start: self.read(Hook::BeforeFirstStart)?.as_deref() == Some(DONE),
            release: self.read(Hook::Migrate)?,
        })
    }

    /// The state is written as a whole or not at all, and kept through a loss of power.
    pub(super) fn remember(&self, hook: Hook, release: &str) -> io::Result<()> {
        let (path, unfinished) = (self.state_file(hook), self.entry("unfinished"));
        let state = match hook {
            Hook::BeforeFirstStart => DONE,
            Hook::Migrate => release,
        };
        self.discard(&unfinished)?;
        let mut written = File::create_new(&unfinished)?;
        written.write_all(state.as_bytes())?;
        // The changes of the hook must reach the disk before its success does.
        syncfs(&written)?;
        if metadata(&path)?.is_some_and(|found| found.is_dir()) {
            self.discard(&path)?;
        }
        fs::rename(&unfinished, &path)?;
        File::open(&self.path)?.sync_all()
    }

    pub(super) fn forget(&self, hook: Hook) -> io::Result<()> {
        self.discard(&self.state_file(hook))
    }

    /// `None` where the hook has not succeeded, or something else took the place of the file.
    fn read(&self, hook: Hook) -> io::Result<Option<String>> {
        let path = self.state_file(hook);
        // A pipe would not end, and a link leads elsewhere.
        if !metadata(&path)?.is_some_and(|found| found.is_file()) {
            return Ok(None);
        }
        let mut state = String::new();
        let file = File::open(&path);
        let read = file.and_then(|file| file.take(MAX_STATE_BYTES).read_to_string(&mut state));
        Ok(read.is_ok().then_some(state))
    }

    fn state_file(&self, hook: Hook) -> PathBuf {
        self.entry(match hook {
            Hook::BeforeFirstStart => "first-start",
            Hook::Migrate => "release",
        })
    }

    pub(super) fn entry(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Moves what is at `path`, if anything is, out of the way: at once, however much it is. On a full disk, where nothing
    /// can be moved, removes it.
    pub(super) fn discard(&self, path: &Path) -> io::Result<()> {
        let Some(found) = metadata(path)? else { return Ok(()) };
        match self.move_to_bin(path) {
            Err(error)
                if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) =>
            {
                if !found.is_dir() {
                    return fs::remove_file(path);
                }
                open_folders(path);
                fs::remove_dir_all(path)
            }
            moved => moved,
        }
    }

    fn move_to_bin(&self, path: &Path) -> io::Result<()> {
        let bin = match self.bin.get() {
            Some(bin) => bin,
            None => {
                let made = self.make_bin()?;
                self.bin.get_or_init(|| made)
            }
        };
        let number = self.next.replace(self.next.get() + 1);
        rename_any(path, &bin.join(number.to_string()))
    }

    fn make_bin(&self) -> io::Result<PathBuf> {
        let bins = self.entry(DISCARDED);
        own_folder(&bins)?;
        // A folder that could not be removed stays beside.
        let mut number = 0;
        loop {
            let bin = bins.join(number.to_string());
            match fs::create_dir(&bin) {
                Ok(()) => return Ok(bin),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes what was discarded. What cannot be removed only takes space, and the next start tries again.
    pub(super) fn empty_discarded(&self) {
        let bins = self.entry(DISCARDED);
        for bin in entries(&bins).unwrap_or_default() {
            if fs::remove_dir_all(&bin).is_err() {
                open_folders(&bin);
                let _ = fs::remove_dir_all(&bin);
            }
        }
        // The bin of this process may be gone: the numbers go on in it.
        if let Some(bin) = self.bin.get() {
            let _ = fs::create_dir(bin);
        }
    }
}

/// Reads the metadata of `path` itself, which may be a link.
pub(super) fn metadata(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

/// Renames also a folder that nobody may write to, which has its mode again afterwards.
pub(super) fn rename_any(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let mode = fs::symlink_metadata(from)?.permissions();
            fs::set_permissions(from, Permissions::from_mode(0o700))?;
            fs::rename(from, to)?;
            fs::set_permissions(to, mode)
        }
        renamed => renamed,
    }
}

/// Makes `path` a folder that this process may use, whatever is there.
fn own_folder(path: &Path) -> io::Result<()> {
    match metadata(path)? {
        Some(found) if found.is_dir() => {}
        found => {
            if found.is_some() {
                fs::remove_file(path)?;
            }
            fs::create_dir(path)?;
        }
    }
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Lets this process into a folder and all below. Best effort.
fn open_folders(folder: &Path) {
    let _ = fs::set_permissions(folder, Permissions::from_mode(0o700));
    for entry in entries(folder).unwrap_or_default() {
        if metadata(&entry).ok().flatten().is_some_and(|found| found.is_dir()) {
            open_folders(&entry);
        }
    }
}
