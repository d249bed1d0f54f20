//! The last good routes on disk: whole or absent, and without secrets.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use protocol::routes::Route;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CachedRoutes {
    pub(crate) revision: u64,
    pub(crate) routes: Vec<Route>,
}

/// Returns `None` when nothing was written yet.
///
/// # Errors
/// The file cannot be read, or holds no routes.
pub(crate) fn read(path: &Path) -> io::Result<Option<CachedRoutes>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a temporary file, makes it durable, then renames it: a crash leaves the old routes or the new ones. During
/// an upgrade two processes write, each to a temporary file of its own.
///
/// # Errors
/// The folder cannot be written.
pub(crate) fn write(path: &Path, cached: &CachedRoutes) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(cached)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use protocol::State;
    use protocol::spec::Desired;

    use super::*;
    use crate::routes::table::tests::route;

    #[test]
    fn routes_read_back_and_a_broken_file_is_an_error() {
        let folder = std::env::temp_dir().join(format!("router-cache-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("routes.json");
        assert_eq!(read(&path).unwrap(), None);
        // The temporary files of other processes.
        let others = ["new", "0.new"].map(|end| path.with_extension(end));
        others.iter().for_each(|other| fs::write(other, "half").unwrap());
        for revision in [1, 2] {
            let routes = vec![route(1, "acme", State::Running, Desired::Running)];
            let cached = CachedRoutes { revision, routes };
            write(&path, &cached).unwrap();
            assert_eq!(read(&path).unwrap(), Some(cached));
        }
        assert!(others.iter().all(|other| fs::read(other).unwrap() == b"half"));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 3, "no temporary file is left");
        fs::write(&path, "{\"revision\":").unwrap();
        assert!(read(&path).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
