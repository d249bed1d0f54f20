//! The ledger on disk: replaced whole, so a crash leaves the old one or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::Seconds;
use crate::ledger::Ledger;

const FILE: &str = "sessions.json";

pub struct Store {
    pub ledger: Ledger,
    dir: PathBuf,
}

impl Store {
    /// Reads what an earlier run left. A file that cannot be understood is set aside, not overwritten.
    pub fn open(dir: &Path, now: Seconds) -> io::Result<Self> {
        let (dir, path) = (dir.to_owned(), dir.join(FILE));
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { ledger: Ledger::default(), dir });
            }
            Err(error) => return Err(error),
        };
        if let Ok(ledger) = serde_json::from_slice(&text) {
            return Ok(Self { ledger, dir });
        }
        let aside = path.with_extension(format!("broken-{now}"));
        eprintln!("{} is unreadable: set aside as {}", path.display(), aside.display());
        fs::rename(&path, aside)?;
        let store = Self { ledger: Ledger::after_loss(now), dir };
        store.save()?;
        Ok(store)
    }

    /// Returns once the ledger would survive a loss of power.
    pub fn save(&self) -> io::Result<()> {
        let (path, fresh) = (self.dir.join(FILE), self.dir.join(format!("{FILE}.new")));
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec(&self.ledger)?)?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), 1).unwrap();
        store.ledger = Ledger::after_loss(7);
        store.save().unwrap();
        assert_eq!(Store::open(dir.path(), 2).unwrap().ledger, Ledger::after_loss(7));
    }

    #[test]
    fn a_broken_file_is_kept_aside_and_distrusted() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{half").unwrap();
        assert_eq!(Store::open(dir.path(), 9).unwrap().ledger, Ledger::after_loss(9));
        assert_eq!(fs::read(dir.path().join("sessions.broken-9")).unwrap(), b"{half");
        assert_eq!(Store::open(dir.path(), 10).unwrap().ledger, Ledger::after_loss(9));
    }
}
