//! The tree for the checks: files with their text.

use std::path::Path;

use anyhow::{Context as _, Result};

/// Folders that are not ours to judge, or not committed.
const SKIPPED: &[&str] = &[".git", "target", "dist", ".cial"];

#[derive(Default)]
pub(super) struct Tree {
    pub(super) files: Vec<SourceFile>,
}

pub(super) struct SourceFile {
    /// Relative to the root, with forward slashes.
    pub(super) path: String,
    pub(super) text: String,
}

impl SourceFile {
    /// Returns the lines without comments, with their numbers.
    pub(super) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate();
        lines.map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
    }
}

impl Tree {
    pub(super) fn load(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.collect(root, root)?;
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(tree)
    }

    pub(super) fn rust(&self) -> impl Iterator<Item = &SourceFile> {
        self.files.iter().filter(|file| file.path.ends_with(".rs"))
    }

    /// Adds every text file below `folder`.
    fn collect(&mut self, root: &Path, folder: &Path) -> Result<()> {
        let entries = std::fs::read_dir(folder);
        for entry in entries.with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default();
            if SKIPPED.iter().any(|skipped| name == *skipped) || path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                self.collect(root, &path)?;
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let path = path.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
                self.files.push(SourceFile { path, text });
            }
        }
        Ok(())
    }
}

/// A tree of one file, in which a test plants a fault.
#[cfg(test)]
pub(super) fn planted_file(path: &str, text: &str) -> Tree {
    Tree { files: vec![SourceFile { path: path.to_owned(), text: text.to_owned() }] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_read_without_what_is_built() {
        let folder = testkit::TempDir::new("tidy").unwrap();
        for path in ["a/src/lib.rs", "b/README.md", "target/debug/build.rs"] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "text").unwrap();
        }
        let tree = Tree::load(folder.path()).unwrap();
        let paths: Vec<_> = tree.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["a/src/lib.rs", "b/README.md"]);
    }
}
