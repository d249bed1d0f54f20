//! The tree for the checks: files with their text.

use std::path::Path;

/// Folders that the checks do not cover, or that are not committed.
const SKIPPED: &[&str] = &[".git", "target", "dist", ".cial"];

#[derive(Default)]
pub(crate) struct Tree {
    pub(crate) files: Vec<SourceFile>,
}

pub(crate) struct SourceFile {
    /// Relative to the root, with forward slashes.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl SourceFile {
    /// Returns the lines without comments, with their numbers.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate();
        lines.map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
    }

    /// Returns the text before the first `#[cfg(test)]`.
    pub(crate) fn shipped(&self) -> &str {
        self.text.split("#[cfg(test)]").next().unwrap_or_default()
    }
}

impl Tree {
    /// Reads every text file of the checkout.
    pub(crate) fn of_checkout() -> Self {
        Self::load(&xtask::environment::root())
    }

    fn load(root: &Path) -> Self {
        let mut tree = Self::default();
        tree.collect(root, root);
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        tree
    }

    /// Makes a tree of the files of a test.
    pub(crate) fn of_files(files: &[(&str, &str)]) -> Self {
        let file =
            |(path, text): &(&str, &str)| SourceFile { path: (*path).into(), text: (*text).into() };
        Self { files: files.iter().map(file).collect() }
    }

    pub(crate) fn rust(&self) -> impl Iterator<Item = &SourceFile> {
        self.files.iter().filter(|file| file.path.ends_with(".rs"))
    }

    /// Returns the text of a file; an empty one where there is no such file.
    pub(crate) fn text(&self, path: &str) -> &str {
        self.files.iter().find(|file| file.path == path).map_or("", |file| &file.text)
    }

    fn collect(&mut self, root: &Path, folder: &Path) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap();
            if SKIPPED.iter().any(|skipped| name == *skipped) || path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                self.collect(root, &path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let path = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
                self.files.push(SourceFile { path, text });
            }
        }
    }
}

#[test]
fn a_tree_is_read_without_what_is_built() {
    let folder = testkit::TempDir::new("tidy").unwrap();
    for path in ["a/src/lib.rs", "b/README.md", "target/debug/build.rs"] {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "text").unwrap();
    }
    let tree = Tree::load(folder.path());
    let paths: Vec<_> = tree.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["a/src/lib.rs", "b/README.md"]);
}
