//! A line for each change of a tenant's state, until Ctrl-C or the tenant's end.

use std::time::Duration;

use serde_json::Value;

use super::wait;
use crate::context::Context;
use crate::error::CliError;
use crate::interrupt;
use crate::output::Shape;

/// A change is shown after at most this time and that of a call.
const INTERVAL: Duration = Duration::from_secs(1);

/// # Errors
/// The tenant does not exist, the server refuses, or standard output cannot be written. A server that is unreachable for a moment
/// is waited for.
pub(crate) fn watch(context: &Context<'_>, slug: &str, shape: &Shape) -> Result<(), CliError> {
    interrupt::quietly();
    let mut shown: Option<[Value; 3]> = None;
    loop {
        match wait::look(context, slug) {
            Ok(Some(tenant)) => {
                let state = ["state", "state_since", "state_reason"].map(|own| tenant[own].clone());
                if shown.as_ref() != Some(&state) {
                    context.output.next_of_list(shape, &tenant)?;
                    shown = Some(state);
                }
            }
            Ok(None) if shown.is_some() => {
                context.output.note(&format!("tenant {slug} is deleted"));
                return Ok(());
            }
            Ok(None) => return Err(wait::missing(slug)),
            Err(error) if shown.is_some() && error.is_transient() => {}
            Err(error) => return Err(error),
        }
        std::thread::sleep(INTERVAL);
    }
}
