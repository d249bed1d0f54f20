//! The last good table on disk: whole or not there, and without secrets.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use protocol::routes::Route;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cached {
    pub(crate) revision: u64,
    pub(crate) routes: Vec<Route>,
}

/// `None` when there is none yet.
pub(crate) fn read(path: &Path) -> io::Result<Option<Cached>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Written aside, made durable, then renamed: a crash leaves the old one or the new one. Two processes write while one
/// follows the other, each aside for itself.
pub(crate) fn write(path: &Path, cached: &Cached) -> io::Result<()> {
    let aside = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = File::create(&aside)?;
    file.write_all(&serde_json::to_vec(cached)?)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
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
    fn it_reads_back_and_what_is_no_table_is_told() {
        let folder = std::env::temp_dir().join(format!("router-cache-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("routes.json");
        assert_eq!(read(&path).unwrap(), None);
        // What another process, of another number, is about to write.
        let others = ["new", "0.new"].map(|end| path.with_extension(end));
        others.iter().for_each(|other| fs::write(other, "half").unwrap());
        for revision in [1, 2] {
            let routes = vec![route(1, "acme", State::Running, Desired::Running)];
            let cached = Cached { revision, routes };
            write(&path, &cached).unwrap();
            assert_eq!(read(&path).unwrap(), Some(cached));
        }
        assert!(others.iter().all(|other| fs::read(other).unwrap() == b"half"));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 3, "nothing of ours stays aside");
        fs::write(&path, "{\"revision\":").unwrap();
        assert!(read(&path).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
