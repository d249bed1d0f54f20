//! The commands of docs/tutorial.md, one after the other in one shell, as they stand there.

use anyhow::{Result, ensure};
use testkit::Installation;

use crate::terminal::Terminal;

const TUTORIAL: &str = include_str!("../../../../docs/tutorial.md");

/// The tutorial removes its tenant, and leaves its second person.
pub(crate) fn follow(terminal: &mut Terminal<'_>, installation: &Installation) -> Result<()> {
    let commands = blocks(TUTORIAL)
        .replace("cial profile use local", &format!("cial profile use {}", installation.name));
    ensure!(commands.contains(&installation.name), "the tutorial no longer selects the profile");
    // Each command is shown, so that a failure names it.
    let output = terminal.script("docs/tutorial.md", &format!("set -eux\n{commands}"))?;
    for shown in ["Tenant globex", "not_signed_in", "(bob@example.com)", "invitation.accept"] {
        output.contains(shown)?;
    }
    Ok(())
}

/// The code blocks of a document that are marked as commands.
fn blocks(document: &str) -> String {
    let parts = document.split("```sh\n").skip(1);
    parts.filter_map(|part| part.split("```").next()).collect()
}
