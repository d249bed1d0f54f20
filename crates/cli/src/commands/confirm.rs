//! The confirmation of a command that destroys something.

use crate::args::Confirm;
use crate::context::Context;
use crate::error::CliError;

/// Requests a confirmation. Returns `false` for `--dry-run`, which prints the plan instead.
pub(super) fn is_confirmed(
    context: &Context<'_>,
    confirm: Confirm,
    plan: &str,
) -> Result<bool, CliError> {
    if confirm.dry_run {
        context.output.data(&format!("would {plan}\n"))?;
        return Ok(false);
    }
    if !confirm.yes {
        let mut letters = plan.chars();
        let first = letters.next().map(|c| c.to_ascii_uppercase()).unwrap_or_default();
        context.output.confirm(&format!("{first}{}?", letters.as_str()))?;
    }
    Ok(true)
}
