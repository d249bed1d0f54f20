//! The tree for the checks: files with their text, and crates with their dependencies.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Folders that are not ours to judge, or not committed.
const SKIPPED: &[&str] = &[".git", "target", "dist", ".cial"];

pub(super) struct Tree {
    pub(super) crates: Vec<Crate>,
    pub(super) files: Vec<SourceFile>,
}

pub(super) struct Crate {
    pub(super) name: String,
    /// Crates of this workspace, by any kind of dependency.
    pub(super) ours: Vec<String>,
    /// All crates, by any kind of dependency.
    pub(super) all: Vec<String>,
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
        let mut files = Vec::new();
        collect(root, root, &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { crates: crates(root)?, files })
    }

    pub(super) fn rust(&self) -> impl Iterator<Item = &SourceFile> {
        self.files.iter().filter(|file| file.path.ends_with(".rs"))
    }
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<SourceFile>) -> Result<()> {
    for entry in
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        let name =
            path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if SKIPPED.contains(&name.as_str()) || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, files)?;
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            let path = path.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
            files.push(SourceFile { path, text });
        }
    }
    Ok(())
}

fn crates(root: &Path) -> Result<Vec<Crate>> {
    let mut cargo =
        Command::new(crate::environment::variable("CARGO").unwrap_or_else(|| "cargo".to_owned()));
    cargo.args(["metadata", "--format-version=1", "--no-deps", "--offline"]);
    let output = cargo.current_dir(root).output().context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    Ok(packages.iter().map(read_crate).collect())
}

fn read_crate(package: &Value) -> Crate {
    let dependencies = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let ours = dependencies.iter().filter(|dependency| dependency["path"].is_string());
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names.dedup();
        names
    };
    Crate {
        name: name(package),
        ours: sorted(ours.map(name).collect()),
        all: sorted(dependencies.iter().map(name).collect()),
    }
}

#[cfg(test)]
pub(super) mod planted {
    //! Trees in which a test plants a fault.

    use super::*;

    pub(in crate::tidy) fn file(path: &str, text: &str) -> Tree {
        let file = SourceFile { path: path.to_owned(), text: text.to_owned() };
        Tree { crates: Vec::new(), files: vec![file] }
    }

    pub(in crate::tidy) fn depends(name: &str, ours: &[&str], others: &[&str]) -> Crate {
        let owned =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let all = [owned(ours), owned(others)].concat();
        Crate { name: name.to_owned(), ours: owned(ours), all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_is_read_with_its_arrows_and_without_what_is_built() {
        let root = std::env::temp_dir().join(format!("cial-tidy-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            std::fs::write(root.join(path), text).unwrap();
        };
        write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"a\", \"b\"]\n");
        for (name, rest) in [("a", "b = { path = \"../b\" }\n"), ("b", "")] {
            let head =
                format!("[package]\nname = \"{name}\"\nversion = \"1.0.0\"\nedition = \"2024\"\n");
            write(&format!("{name}/Cargo.toml"), &format!("{head}[dependencies]\n{rest}"));
            write(&format!("{name}/src/lib.rs"), "");
        }
        write("target/debug/build.rs", "");
        let tree = Tree::load(&root);
        std::fs::remove_dir_all(&root).unwrap();
        let tree = tree.unwrap();
        assert_eq!(tree.crates.iter().find(|c| c.name == "a").unwrap().ours, ["b"]);
        assert!(tree.rust().all(|file| file.path.ends_with("src/lib.rs")));
    }
}
