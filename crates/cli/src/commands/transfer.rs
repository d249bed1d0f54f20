//! `cial tenants export` and `cial tenants import`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::State;
use protocol::transfer::END_MARK;
use serde_json::Value;

use super::tenants::{TENANTS, path};
use crate::args::{ExportTenant, ImportTenant};
use crate::context::Context;
use crate::error::CliError;
use crate::http::{Method, Request, segment};
use crate::tenant::wait::{self, Goal};

/// The exports before this one, and the beginning of its dump: the server ends each before.
const EXPORT_PATIENCE: Duration = Duration::from_secs(30 * 60);
/// The restore of a schema, after all is sent: the server ends it before.
const IMPORT_PATIENCE: Duration = Duration::from_secs(150 * 60);
const BUFFER_BYTES: usize = 64 << 10;

pub(super) fn export(args: &ExportTenant, context: &Context<'_>) -> Result<(), CliError> {
    let slug = &args.slug;
    if args.file.is_none() && io::stdout().is_terminal() {
        return Err(CliError::usage("an export is no text for a terminal")
            .next(format!("cial tenants export {slug} --file {slug}.tar.zst")));
    }
    let was_stopped = args.stop && stop(args, context)?;
    let exported = match &args.file {
        Some(file) => export_to_file(args, file, context),
        None => write_export(args, &mut io::stdout().lock(), context),
    };
    if was_stopped {
        let request =
            Request::new(Method::POST, path(slug, "/start"), format!("start tenant {slug}"));
        let started = context.call(&request);
        // The failure of the export is the first, and says more.
        exported.and(started.map(drop))
    } else {
        exported
    }
}

/// Stops a tenant that runs, and returns whether it did.
fn stop(args: &ExportTenant, context: &Context<'_>) -> Result<bool, CliError> {
    let slug = &args.slug;
    let shown = context.call(&Request::get(path(slug, ""), format!("show tenant {slug}")))?;
    let rests = [State::Frozen, State::Sleeping, State::Stopped];
    if rests.iter().any(|state| shown["state"] == state.as_str()) {
        return Ok(false);
    }
    let request = Request::new(Method::POST, path(slug, "/stop"), format!("stop tenant {slug}"));
    let stopping = context.call(&request)?;
    wait::wait(context, slug, Goal::State(State::Stopped), args.timeout, Some(stopping))?;
    Ok(true)
}

/// Writes beside the file first: whatever has its name is whole. Other users of the machine cannot read the tenant's data.
fn export_to_file(args: &ExportTenant, file: &Path, context: &Context<'_>) -> Result<(), CliError> {
    let failed = |error: io::Error| {
        CliError::failed(format!("cannot write {}", file.display())).because(error)
    };
    if file.exists() {
        return Err(failed(io::ErrorKind::AlreadyExists.into())
            .next("name another file, or remove this one first"));
    }
    let part = part_of(file);
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
    let mut writer: File = opened.map_err(|error| {
        CliError::failed(format!("cannot write {}", part.display())).because(error)
    })?;
    let written = write_export(args, &mut writer, context)
        .and_then(|()| writer.sync_all().and_then(|()| fs::rename(&part, file)).map_err(failed));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    } else {
        context.output.note(&format!("tenant {} is exported to {}", args.slug, file.display()));
    }
    written
}

fn part_of(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    file.with_file_name(name)
}

fn write_export(
    args: &ExportTenant,
    writer: &mut impl Write,
    context: &Context<'_>,
) -> Result<(), CliError> {
    let slug = &args.slug;
    let title = format!("export tenant {slug}");
    let request = Request::get(path(slug, "/export"), title.clone())
        .query("without_database", args.without_database.then_some("1"))
        .patience(EXPORT_PATIENCE);
    let mut body = context.client()?.stream(&request)?;
    let broken = |why: String| {
        CliError::failed(format!("cannot {title}"))
            .because(why)
            .next("what was written is not whole: remove it, then try again")
    };
    let (mut buffer, mut end) = (vec![0; BUFFER_BYTES], Vec::new());
    loop {
        let read = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) => return Err(broken(format!("the connection broke: {error}"))),
        };
        let bytes = buffer.get(..read).unwrap_or_default();
        writer.write_all(bytes).map_err(|error| {
            CliError::failed(format!("cannot write the export of tenant {slug}")).because(error)
        })?;
        end.extend_from_slice(bytes);
        let surplus = end.len().saturating_sub(END_MARK.len());
        end.drain(..surplus);
    }
    if end != END_MARK {
        return Err(broken("the server ended the export before its end".to_owned()));
    }
    writer.flush().map_err(|error| broken(error.to_string()))
}

pub(super) fn import(args: &ImportTenant, context: &Context<'_>) -> Result<(), CliError> {
    let (slug, file) = (&args.slug, args.file.display());
    if args.file.as_os_str() != "-" {
        File::open(&args.file)
            .map_err(|error| CliError::failed(format!("cannot read {file}")).because(error))?;
    }
    let address = format!("/v1/imports/{}", segment(slug));
    let request = Request::new(Method::POST, address, format!("import {file} as tenant {slug}"))
        .upload(&args.file)
        .patience(IMPORT_PATIENCE);
    let tenant: Value = context.call(&request)?;
    context.output.object(&TENANTS, &tenant)?;
    context.output.note(&format!(
        "set the variables and secrets of its program, which no export holds, then: cial tenants start {slug}"
    ));
    Ok(())
}
