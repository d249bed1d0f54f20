//! The page `docs/reference/manifest.md`.

use std::fmt::Write as _;

use crate::keys::{KEYS, Kind};

/// The text of the page.
pub fn markdown() -> String {
    let mut text = String::from(
        "# `cial.toml`\n\nGenerated from the table of keys; do not edit. \
         `UPDATE_REFERENCE=1 cargo test -p manifest the_reference` writes this page and \
         [the JSON Schema](cial.schema.json).\n\n\
         The file says how the program of an image runs as a tenant. Every key is optional. \
         `cial init` writes a commented file, and `cial manifest check` names all faults of one, \
         each with its line and column. An unknown key is a fault.\n\n\
         | key | value | without it | example |\n|---|---|---|---|\n",
    );
    for key in KEYS {
        let _ = writeln!(
            text,
            "| `{}` | {}: {} | {} | `{}` |",
            key.name,
            kind(key.kind),
            key.about,
            key.default,
            key.example
        );
    }
    text.push_str(
        "\nThe names `HOME`, `PORT`, `TENANT_ID`, `TMPDIR`, `USER` and those that begin with `CIAL_` or `LISTEN_` \
         are the platform's own.\n",
    );
    text
}

const fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Command => "list of texts",
        Kind::Port | Kind::Seconds => "number",
        Kind::Path | Kind::Chat => "text",
        Kind::PublicPaths | Kind::Names => "list of texts",
        Kind::Flag => "true or false",
        Kind::Variables => "table of texts",
    }
}
