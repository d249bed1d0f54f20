//! The archive of an exported tenant: a tar, compressed by zstd. Pure: bytes in, checked parts out, and the other way
//! round.
//!
//! In this order, the tar holds [`MANIFEST`]; the folders [`DATA`] and [`FILES`], which are the tenant's two volumes with
//! owners, modes, times and links; files below [`DATABASE`], which one after the other are the SQL that pg_dump wrote of the
//! tenant's schema; and [`CHECKSUMS`], which covers all that comes before it.
//!
//! [`Exporter`] writes such an archive, [`Importer`] reads one that anybody may have written, and [`ScriptReader`] the SQL in it.

mod compression;
mod export;
mod fault;
mod import;
mod manifest;
mod rules;
mod script;
mod tar_stream;

pub use compression::{Compressor, Decompressor};
pub use export::Exporter;
pub use fault::Fault;
pub use import::{Importer, Part};
pub use manifest::{DatabaseFacts, FORMAT, Manifest, TenantFacts};
pub use script::{Renaming, ScriptItem, ScriptReader};

pub const MANIFEST: &str = "manifest.json";
/// The volume of the core half.
pub const DATA: &str = "data";
/// The volume of the tenant's own files.
pub const FILES: &str = "files";
/// The folder of the parts of the tenant's schema.
pub const DATABASE: &str = "database";
pub const CHECKSUMS: &str = "checksums.json";
/// The length of the files below [`DATABASE`]; the last one may be shorter.
pub const DATABASE_FILE_BYTES: usize = 16 << 20;
/// The most bytes of all files below [`DATABASE`].
pub const MAX_DATABASE_BYTES: u64 = 4 << 30;
/// The most files below [`DATABASE`].
const MAX_DATABASE_FILES: u64 = MAX_DATABASE_BYTES / DATABASE_FILE_BYTES as u64;

/// The path of a file below [`DATABASE`], numbered from 1.
fn database_file(number: u64) -> String {
    format!("{DATABASE}/schema-{number:03}.sql")
}

/// Any bytes; for the fuzz target. They are read as a compressed archive, and as the tar in one.
///
/// # Panics
/// An accepted archive breaks a promise, or a fault says nothing.
pub fn fuzz(bytes: &[u8]) {
    for outcome in [read_compressed(bytes), read_tar(bytes), read_script(bytes)] {
        if let Err(fault) = outcome {
            assert!(!fault.to_string().is_empty());
        }
    }
}

/// The pieces in which a script arrives say nothing about what is read.
fn read_script(bytes: &[u8]) -> Result<(), Fault> {
    let facts = |name: &str| DatabaseFacts { schema: name.to_owned(), user: name.to_owned() };
    let read = |step: usize| {
        let mut reader = ScriptReader::new(Renaming { from: facts("t_a"), to: facts("t_b") });
        let (mut statements, mut rows) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(step.max(1)) {
            reader.push(piece);
            while let Some(item) = reader.next_item()? {
                match item {
                    ScriptItem::Statement(sql) | ScriptItem::Copy(sql) => statements.push(sql),
                    ScriptItem::Rows { bytes, .. } => rows.extend_from_slice(&bytes),
                    ScriptItem::EndOfRows => {}
                }
            }
        }
        reader.finish()?;
        Ok((statements, rows))
    };
    let whole = read(bytes.len());
    assert_eq!(read(7), whole);
    whole.map(drop)
}

/// The most that a fuzzed archive may unpack to.
const FUZZ_BYTES: u64 = 1 << 20;

fn read_compressed(bytes: &[u8]) -> Result<(), Fault> {
    let mut tar = Vec::new();
    let mut decompressor = Decompressor::new()?;
    decompressor.push(bytes.to_vec().into());
    while let Some(piece) = decompressor.next_piece()? {
        tar.extend(piece);
        if tar.len() > 4 << 20 {
            break;
        }
    }
    read_tar(&tar)
}

fn read_tar(tar: &[u8]) -> Result<(), Fault> {
    let mut importer = Importer::new();
    importer.limit(FUZZ_BYTES);
    importer.push(tar);
    let mut volumes = Vec::new();
    while let Some(part) = importer.next_part()? {
        if let Part::Volumes(bytes) = part {
            volumes.extend_from_slice(&bytes);
        }
    }
    importer.finish()?;
    // An accepted archive that is written again is the same, and is accepted as a volume.
    let mut exporter = Exporter::volumes_only();
    exporter.push_volumes(&volumes)?;
    exporter.end_volumes()?;
    assert_eq!(exporter.take(), volumes);
    Ok(())
}
