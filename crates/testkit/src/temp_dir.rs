//! A folder that is removed when its value is dropped.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

static NUMBER: AtomicU64 = AtomicU64::new(0);

#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Creates `cial-{purpose}-{pid}-{number}` below the system's folder for temporary files.
    ///
    /// # Errors
    /// The folder cannot be created.
    pub fn new(purpose: &str) -> std::io::Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("cial-{purpose}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A folder that cannot be removed lies where the system removes such folders.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
