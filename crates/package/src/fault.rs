//! Why bytes are no package.

use std::fmt;

/// A fault of `package.toml`: the field by its place, like `workflow[0].task[1].command`, and the rule that it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldFault {
    pub field: String,
    pub rule: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There are no bytes, or an archive without a file.
    Empty,
    /// The bytes are compressed neither by bzip2 nor by zstd.
    NotCompressed,
    /// The archive is damaged or cut off.
    Corrupt(String),
    /// The archive is larger than it may be, compressed or unpacked.
    TooLarge(String),
    /// An entry must not be unpacked.
    Unsafe { entry: String, rule: &'static str },
    /// The description breaks rules.
    Invalid(Vec<FieldFault>),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("The archive holds no file."),
            Self::NotCompressed => f.write_str("The file is no tar that bzip2 or zstd compressed."),
            Self::Corrupt(why) => write!(f, "The archive is damaged or cut off: {why}."),
            Self::TooLarge(rule) => write!(f, "The archive {rule}."),
            Self::Unsafe { entry, rule } => write!(f, "The entry {entry:?} {rule}."),
            Self::Invalid(fields) => {
                let count = fields.len();
                write!(f, "package.toml breaks {count} rules.")
            }
        }
    }
}
