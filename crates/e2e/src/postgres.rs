//! Queries in the database of an installation, past all its parts.

use anyhow::Result;

/// Returns the output of a query that a superuser runs in the container `postgres`.
pub fn as_superuser(postgres: &str, text: &str) -> Result<String> {
    let psql = ["psql", "-XAtq", "--username=cial", "--dbname=cial", "--command", text];
    Ok(docker_command::run(&[&["exec", postgres], &psql[..]].concat())?.trim().to_owned())
}
