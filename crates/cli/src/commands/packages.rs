//! `cial packages`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use protocol::packages::{NewPackageKey, PackageSignature};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{confirm, pages, variables};
use crate::args::{
    DeletePackage, DeletePackageKey, PackageKeysCommand, PackagesCommand, SignPackage,
    UploadPackage,
};
use crate::context::Context;
use crate::error::CliError;
use crate::http::{Method, Request, segment};
use crate::output::{Column, Shape};

pub(super) const PACKAGES: Shape = Shape {
    plural: "packages",
    name: "/name",
    columns: &[
        Column::new("NAME", "/name"),
        Column::new("VERSION", "/version"),
        Column::new("WORKFLOWS", "/workflows"),
        Column::new("BYTES", "/bytes"),
        Column::time("CREATED", "/created_at"),
        Column::new("BY", "/created_by").wide(),
        Column::new("SIGNER", "/signed_by/key").wide(),
        Column::new("SHA256", "/sha256").wide(),
        Column::new("ABOUT", "/about").wide(),
        Column::new("ID", "/id").wide(),
    ],
};

pub(super) const UPLOADED: Shape = Shape {
    plural: "packages",
    name: "/package_id",
    columns: &[
        Column::new("NAME", "/name"),
        Column::new("VERSION", "/version"),
        Column::new("WORKFLOWS", "/workflows"),
        Column::new("ID", "/package_id"),
    ],
};

pub(super) const PACKAGE_KEYS: Shape = Shape {
    plural: "keys",
    name: "/name",
    columns: &[
        Column::new("NAME", "/name"),
        Column::new("PACKAGES", "/packages"),
        Column::time("ADDED", "/created_at"),
        Column::new("BY", "/created_by").wide(),
        Column::new("PUBLIC", "/public_key").wide(),
    ],
};

const KEYS_PATH: &str = "/v1/package-keys";

/// The largest file that the API takes, in bytes.
const MAX_BYTES: u64 = 100_000_000;

pub(super) fn run(command: Option<PackagesCommand>, context: &Context<'_>) -> Result<(), CliError> {
    match command.unwrap_or(PackagesCommand::List) {
        PackagesCommand::List => {
            let tenant = context.tenant()?;
            let title = format!("list the packages of tenant {tenant}");
            let request = Request::get(path(&tenant), title);
            context.output.list(&PACKAGES, &pages::single(context, &request, "items")?)
        }
        PackagesCommand::Upload(args) => upload(&args, context),
        PackagesCommand::Sign(args) => sign(&args, context),
        PackagesCommand::Delete(args) => delete(&args, context),
        PackagesCommand::Keys { command } => {
            keys(&command.unwrap_or(PackageKeysCommand::List), context)
        }
    }
}

fn path(tenant: &str) -> String {
    format!("/v1/tenants/{}/packages", segment(tenant))
}

fn upload(args: &UploadPackage, context: &Context<'_>) -> Result<(), CliError> {
    let (shown, bytes) = (args.file.display(), read_archive(&args.file)?);
    let signature = args.signature.as_deref().map(variables::read_value).transpose()?;
    let tenant = context.tenant()?;
    let title = format!("upload {shown} to tenant {tenant}");
    let request = Request::new(Method::POST, path(&tenant), title);
    let request = request.file(&bytes, signature.as_deref());
    context.output.object(&UPLOADED, &context.call(&request)?)
}

fn read_archive(file: &Path) -> Result<Vec<u8>, CliError> {
    let shown = file.display();
    let mut bytes = Vec::new();
    let opened = File::open(file);
    let read = opened.and_then(|opened| opened.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|error| CliError::failed(format!("cannot read {shown}")).because(error))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(CliError::failed(format!("cannot use {shown}"))
            .because("a package has at most 100 MB")
            .next("leave out what its tasks do not need"));
    }
    Ok(bytes)
}

fn sign(args: &SignPackage, context: &Context<'_>) -> Result<(), CliError> {
    let pair = read_private_key(&args.key)?;
    let digest = Sha256::digest(read_archive(&args.file)?).to_vec();
    let failed = || CliError::failed(format!("cannot sign {}", args.file.display()));
    let signature = PackageSignature {
        public_key: pair.public_key().as_ref().try_into().map_err(|_| failed())?,
        signature: pair.sign(&digest).as_ref().try_into().map_err(|_| failed())?,
    };
    let mut target = args.file.clone().into_os_string();
    target.push(".sig");
    let target = PathBuf::from(target);
    std::fs::write(&target, format!("{signature}\n")).map_err(|error| {
        CliError::failed(format!("cannot write {}", target.display())).because(error)
    })?;
    context.output.data(&format!("{}\n", target.display()))
}

/// No error shows the key.
fn read_private_key(file: &Path) -> Result<Ed25519KeyPair, CliError> {
    let pem = variables::read_value(file)?;
    let pair = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
        .ok()
        .and_then(|der| Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).ok());
    pair.ok_or_else(|| {
        CliError::failed(format!("cannot use the key in {}", file.display()))
            .because("it is no private key of Ed25519 as PEM (BEGIN PRIVATE KEY)")
            .next("make one: openssl genpkey -algorithm ed25519 -out key.pem")
    })
}

fn keys(command: &PackageKeysCommand, context: &Context<'_>) -> Result<(), CliError> {
    match command {
        PackageKeysCommand::List => {
            let request = Request::get(KEYS_PATH, "list the keys of packages");
            context.output.list(&PACKAGE_KEYS, &pages::single(context, &request, "keys")?)
        }
        PackageKeysCommand::Add(args) => {
            let new = NewPackageKey {
                name: args.name.clone(),
                public_key: variables::read_value(&args.file)?,
            };
            let title = format!("trust the key {}", args.name);
            let request = Request::new(Method::POST, KEYS_PATH, title).json(json!(new));
            context.output.object(&PACKAGE_KEYS, &context.call(&request)?)
        }
        PackageKeysCommand::Delete(args) => delete_key(args, context),
    }
}

fn delete_key(args: &DeletePackageKey, context: &Context<'_>) -> Result<(), CliError> {
    let plan = format!(
        "trust the signatures of key {} no more; where signatures are required, the packages that it signed run no longer",
        args.name
    );
    if !confirm::is_confirmed(context, args.confirm, &plan)? {
        return Ok(());
    }
    let path = format!("{KEYS_PATH}/{}", segment(&args.name));
    let title = format!("delete the key {}", args.name);
    context.send(&Request::new(Method::DELETE, path, title))?;
    context.output.note(&format!("key {} is deleted", args.name));
    Ok(())
}

fn delete(args: &DeletePackage, context: &Context<'_>) -> Result<(), CliError> {
    let (name, version) = (&args.name, &args.version);
    let tenant = context.tenant()?;
    let title = format!("delete package {name} {version} of tenant {tenant}");
    if !confirm::is_confirmed(context, args.confirm, &title)? {
        return Ok(());
    }
    let path = format!("{}/{}/{}", path(&tenant), segment(name), segment(version));
    context.send(&Request::new(Method::DELETE, path, title))?;
    context.output.note(&format!("package {name} {version} is deleted"));
    Ok(())
}
