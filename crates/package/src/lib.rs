//! `name-version.cial`: an archive with the workflows of a tenant and the programs of their tasks. Pure: bytes in, a
//! [`Package`] or the first [`Fault`] out.
//!
//! The archive is a tar, compressed by bzip2 or zstd. Everything in it lies below one folder, `name-version`, which holds
//! [`DESCRIPTION`]. Whoever unpacks an archive that [`read`] accepted writes regular files below that folder and nothing else.

mod archive;
mod description;
mod fault;
mod workflow;

pub use archive::{MAX_FILES, MAX_UNPACKED_BYTES, decompress, read, read_tar};
pub use description::is_name;
pub use fault::{Fault, FieldFault};
pub use workflow::{Task, Workflow};

/// The file that describes the package, below its folder.
pub const DESCRIPTION: &str = "package.toml";
/// The largest archive, compressed.
pub const MAX_BYTES: usize = 100_000_000;

/// The content of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: String,
    /// For people; may be empty.
    pub about: String,
    /// At least one.
    pub workflows: Vec<Workflow>,
}

impl Package {
    /// The folder of the archive, like `acme-etl-1.2.0`.
    pub fn folder(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }
}

/// Any bytes; for the fuzz target. Bytes that are no compressed archive are tried as a tar, too.
///
/// # Panics
/// An accepted package breaks a rule, or a fault says nothing.
pub fn fuzz(bytes: &[u8]) {
    for outcome in [read(bytes), read_tar(bytes)] {
        match outcome {
            Ok(package) => {
                assert!(description::is_name(&package.name), "{package:?}");
                assert!(description::is_version(&package.version), "{package:?}");
                assert!(!package.workflows.is_empty());
                for workflow in &package.workflows {
                    assert_eq!(workflow.in_order().len(), workflow.tasks.len(), "{workflow:?}");
                }
            }
            Err(fault) => assert!(!fault.to_string().is_empty()),
        }
    }
}
