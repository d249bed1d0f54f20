//! The session table on disk. Each write replaces the whole file, so a crash leaves the old table or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::Seconds;
use crate::session_table::SessionTable;

const FILE: &str = "sessions.json";

pub struct SessionFile {
    pub table: SessionTable,
    dir: PathBuf,
}

impl SessionFile {
    /// Reads the file of an earlier run. A file that cannot be parsed is renamed, never overwritten.
    ///
    /// # Errors
    /// When the file cannot be read or renamed.
    pub fn open(dir: &Path, now: Seconds) -> io::Result<Self> {
        let (dir, path) = (dir.to_owned(), dir.join(FILE));
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { table: SessionTable::default(), dir });
            }
            Err(error) => return Err(error),
        };
        if let Ok(table) = serde_json::from_slice(&text) {
            return Ok(Self { table, dir });
        }
        let aside = path.with_extension(format!("broken-{now}"));
        eprintln!(
            "session file unreadable: path={} renamed_to={}",
            path.display(),
            aside.display()
        );
        fs::rename(&path, aside)?;
        let store = Self { table: SessionTable::after_loss(now), dir };
        store.save()?;
        Ok(store)
    }

    /// Writes the table. It survives a loss of power once this returns.
    ///
    /// # Errors
    /// When the write fails; the old file is then intact.
    pub fn save(&self) -> io::Result<()> {
        let (path, fresh) = (self.dir.join(FILE), self.dir.join(format!("{FILE}.new")));
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec(&self.table)?)?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_table_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = SessionFile::open(dir.path(), 1).unwrap();
        store.table = SessionTable::after_loss(7);
        store.save().unwrap();
        assert_eq!(SessionFile::open(dir.path(), 2).unwrap().table, SessionTable::after_loss(7));
    }

    #[test]
    fn an_unreadable_file_is_renamed_and_older_tokens_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{half").unwrap();
        assert_eq!(SessionFile::open(dir.path(), 9).unwrap().table, SessionTable::after_loss(9));
        assert_eq!(fs::read(dir.path().join("sessions.broken-9")).unwrap(), b"{half");
        assert_eq!(SessionFile::open(dir.path(), 10).unwrap().table, SessionTable::after_loss(9));
    }
}
