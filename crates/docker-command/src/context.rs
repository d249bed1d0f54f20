//! The build context of an image: an archive that depends on the files alone, and not on its
//! creator or its date.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tar::HeaderMode;

/// Packs files and folders below `root` in order of their names, and leaves out missing ones and those called `target`.
///
/// # Errors
/// A file cannot be read.
pub fn pack_context(root: &Path, parts: &[String]) -> Result<Vec<u8>> {
    let mut files = Vec::new();
    for part in parts {
        collect(&root.join(part), &mut files)?;
    }
    files.sort();
    let mut archive = tar::Builder::new(Vec::new());
    // Keeps whether a file is executable, and neither its date nor its owner.
    archive.mode(HeaderMode::Deterministic);
    archive.sparse(false);
    for file in files {
        let name = file.strip_prefix(root)?;
        let appended = archive.append_path_with_name(&file, name);
        appended.with_context(|| format!("cannot pack {}", name.display()))?;
    }
    Ok(archive.into_inner()?)
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_file() {
        files.push(path.to_owned());
    } else if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
        for entry in std::fs::read_dir(path)? {
            collect(&entry?.path(), files)?;
        }
    }
    Ok(())
}

#[test]
fn the_same_files_make_the_same_archive() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let parts = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let forwards = pack_context(root, &parts(&["Cargo.toml", "src/lib.rs", "absent"])).unwrap();
    let backwards = pack_context(root, &parts(&["src/lib.rs", "Cargo.toml"])).unwrap();
    assert_eq!(forwards, backwards);
    assert_ne!(forwards, pack_context(root, &parts(&["Cargo.toml"])).unwrap());
}
