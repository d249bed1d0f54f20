//! `init` and `manifest`: files on this machine, no server.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use manifest::MAX_BYTES;

use crate::args::{InitArgs, ManifestCommand};
use crate::context::Context;
use crate::error::CliError;

pub(super) fn init(args: &InitArgs, context: &Context<'_>) -> Result<(), CliError> {
    let path = args.file.display();
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).create_new(!args.force);
    let written =
        options.open(&args.file).and_then(|mut file| file.write_all(manifest::TEMPLATE.as_bytes()));
    written.map_err(|error| {
        let failed = CliError::failed(format!("cannot write {path}"));
        if error.kind() == io::ErrorKind::AlreadyExists {
            failed.because("the file exists").next("replace it with --force, or name another file")
        } else {
            failed.because(error)
        }
    })?;
    context.output.note(&format!("wrote {path}; every key in it is a comment"));
    Ok(())
}

pub(super) fn run(command: ManifestCommand, context: &Context<'_>) -> Result<(), CliError> {
    match command {
        ManifestCommand::Check { file } => {
            read_checked(&file)?;
            context.output.note(&format!("{} has no fault", file.display()));
            Ok(())
        }
        ManifestCommand::Schema => context.output.data(&manifest::schema::text()),
    }
}

/// Reads the text of a manifest; `-` is standard input.
fn read(file: &Path) -> Result<String, CliError> {
    let mut text = String::new();
    // One byte more than allowed shows that the text is too long.
    let limit = MAX_BYTES as u64 + 1;
    let read = if file == Path::new("-") {
        io::stdin().take(limit).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|opened| opened.take(limit).read_to_string(&mut text))
    };
    read.map_err(|error| {
        let failed = CliError::failed(format!("cannot read {}", file.display())).because(&error);
        let is_missing = error.kind() == io::ErrorKind::NotFound;
        if is_missing { failed.next("write one with: cial init") } else { failed }
    })?;
    Ok(text)
}

/// Reads a manifest without faults.
pub(super) fn read_checked(file: &Path) -> Result<String, CliError> {
    let text = read(file)?;
    let Err(faults) = manifest::parse(&text) else { return Ok(text) };
    let count =
        if faults.len() == 1 { "one fault".to_owned() } else { format!("{} faults", faults.len()) };
    let failed = CliError::failed(format!("{} has {count}", file.display()));
    Err(faults.iter().fold(failed, CliError::because).next("see docs/reference/manifest.md"))
}
