//! The file of the history: opened when it is needed, checked once a run, put aside when it is damaged.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::{HistoryError, migrations};
use crate::{Seconds, now};

const FILE: &str = "history.db";

/// One connection locks the file, so there is no shared index beside it. Every commit is on disk before it is
/// acknowledged. The cache stays small, because each tenant has one.
const SETTINGS: &str = "
    PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA foreign_keys = ON;
    PRAGMA trusted_schema = OFF;
    PRAGMA temp_store = MEMORY;
    PRAGMA cache_size = -512;
    PRAGMA journal_size_limit = 4194304;
";

pub(super) struct HistoryFile {
    path: PathBuf,
    connection: Option<Connection>,
    /// Reading the whole file takes time, so it is checked once.
    is_checked: bool,
}

impl HistoryFile {
    pub(super) fn new(dir: &Path) -> Self {
        Self { path: dir.join(FILE), connection: None, is_checked: false }
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.is_some()
    }

    /// Closes the connection. After damage was found, the next opening checks the whole file again.
    pub(super) fn close(&mut self, after_damage: bool) {
        self.connection = None;
        self.is_checked &= !after_damage;
    }

    /// The open connection. A damaged file is renamed, never overwritten, and an empty one takes its place.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub(super) fn open(&mut self) -> Result<&Connection, HistoryError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => match self.connect() {
                Err(HistoryError::Corrupt(damage)) => {
                    self.put_aside(&damage, now())?;
                    self.connect()?
                }
                connected => connected?,
            },
        };
        self.is_checked = true;
        Ok(self.connection.insert(connection))
    }

    fn connect(&self) -> Result<Connection, HistoryError> {
        // SQLite gives the log beside the file the same mode.
        OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.execute_batch(SETTINGS)?;
        if !self.is_checked {
            let check: String =
                connection.query_one("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            if check != "ok" {
                return Err(HistoryError::Corrupt(check));
            }
        }
        migrations::apply(&connection)?;
        Ok(connection)
    }

    fn put_aside(&self, damage: &str, now: Seconds) -> io::Result<()> {
        let aside = |time: Seconds| self.path.with_file_name(format!("{FILE}.corrupt-{time}"));
        let aside = (now..).map(aside).find(|path| !path.exists()).unwrap_or_else(|| aside(now));
        eprintln!(
            "history file corrupt: path={} renamed_to={} error={damage}",
            self.path.display(),
            aside.display()
        );
        // The log first: beside a new file it would be replayed into that file.
        let log = |path: &Path| PathBuf::from(format!("{}-wal", path.display()));
        match fs::rename(log(&self.path), log(&aside)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => fs::rename(&self.path, &aside)?,
        }
        let dir = self.path.parent().unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

    use super::*;

    type Damage<'a> = &'a dyn Fn(&Path) -> io::Result<()>;

    fn names(dir: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| name(e).into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn fill(dir: &Path, rows: u32) {
        let mut file = HistoryFile::new(dir);
        let connection = file.open().unwrap();
        for number in 0..rows {
            let name = format!("workspace {number} {}", "x".repeat(200));
            let id = uuid::Uuid::from_u128(number.into());
            let insert = "INSERT INTO workspaces (id, name, created_at) VALUES (?, ?, 1)";
            connection.execute(insert, rusqlite::params![id, name]).unwrap();
        }
    }

    fn count(file: &mut HistoryFile) -> u32 {
        let query = "SELECT count(*) FROM workspaces";
        file.open().unwrap().query_one(query, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn the_file_is_private_and_keeps_its_rows() {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), 3);
        let mut file = HistoryFile::new(dir.path());
        assert_eq!(count(&mut file), 3);
        for name in names(dir.path()) {
            let mode = fs::metadata(dir.path().join(&name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert_eq!(names(dir.path()), ["history.db", "history.db-wal"]);
        file.close(false);
        assert_eq!(names(dir.path()), ["history.db"]);
    }

    #[test]
    fn a_damaged_file_is_put_aside_byte_for_byte_and_never_overwritten() {
        let noise =
            |dir: &Path| fs::write(dir.join(FILE), b"no database, but four lines".repeat(99));
        let half = |dir: &Path| {
            fill(dir, 100);
            File::options().write(true).open(dir.join(FILE))?.set_len(8_192)
        };
        let page = |dir: &Path| {
            fill(dir, 100);
            let file = File::options().write(true).open(dir.join(FILE))?;
            let length = file.metadata()?.len();
            file.write_all_at(&vec![0xa5; 4_096], length - 4_096)
        };
        let damages: [(&str, Damage<'_>); 3] =
            [("noise", &noise), ("half", &half), ("page", &page)];
        for (what, damage) in damages {
            let dir = tempfile::tempdir().unwrap();
            damage(dir.path()).unwrap();
            let before = fs::read(dir.path().join(FILE)).unwrap();
            let mut file = HistoryFile::new(dir.path());
            assert_eq!(count(&mut file), 0, "{what}");
            let aside = names(dir.path()).into_iter().find(|name| name.contains(".corrupt-"));
            let aside = dir.path().join(aside.expect(what));
            assert_eq!(fs::read(&aside).unwrap(), before, "{what}");
            // A second one within the same second gets another name.
            file.close(true);
            fs::write(dir.path().join(FILE), b"noise again, which is no database").unwrap();
            file.open().unwrap();
            let asides = names(dir.path()).iter().filter(|n| n.contains(".corrupt-")).count();
            assert_eq!((asides, fs::read(&aside).unwrap() == before), (2, true), "{what}");
        }
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "").unwrap();
        std::os::unix::fs::symlink(&elsewhere, dir.path().join(FILE)).unwrap();
        assert!(HistoryFile::new(dir.path()).open().is_err());
        assert_eq!(fs::read(&elsewhere).unwrap(), b"");
    }
}
