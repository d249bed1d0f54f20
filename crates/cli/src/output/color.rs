//! When output has colour: `--color`, then the conventions of <https://bixense.com/clicolors> and <https://no-color.org>.

use anstream::adapter::strip_str;

use crate::args::ColorWhen;
use crate::environment::Environment;

pub(super) const ERROR: &str = "\x1b[1;31m";
pub(super) const WARNING: &str = "\x1b[1;33m";
pub(super) const GOOD: &str = "\x1b[32m";
pub(super) const BAD: &str = "\x1b[31m";
pub(super) const BUSY: &str = "\x1b[33m";
pub(super) const QUIET: &str = "\x1b[2m";
pub(super) const HEADING: &str = "\x1b[1m";
const RESET: &str = "\x1b[0m";

/// Whether a stream has colour.
pub(super) fn is_on(when: ColorWhen, environment: &Environment, is_terminal: bool) -> bool {
    match when {
        ColorWhen::Always => true,
        ColorWhen::Never => false,
        ColorWhen::Auto => {
            let variable = |name| environment.variable(name);
            let is_forced = variable("CLICOLOR_FORCE").is_some_and(|value| value != "0");
            let is_dumb = variable("TERM") == Some("dumb");
            let is_off = variable("CLICOLOR") == Some("0");
            variable("NO_COLOR").is_none() && (is_forced || (is_terminal && !is_dumb && !is_off))
        }
    }
}

pub(super) fn paint(style: &str, text: &str, is_coloured: bool) -> String {
    if is_coloured { format!("{style}{text}{RESET}") } else { text.to_owned() }
}

/// Text of the server as one printable line: what a tenant calls itself must not control a terminal.
pub(super) fn printable(text: &str) -> String {
    let plain = strip_str(text).to_string();
    plain.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_then_variables_then_the_terminal_decide() {
        let set = |pairs: &[(&str, &str)]| {
            Environment::new([], pairs.iter().map(|(name, value)| (name.into(), value.into())))
        };
        use ColorWhen::{Always, Auto, Never};
        for (when, variables, is_terminal, expected) in [
            (Auto, &[][..], true, true),
            (Auto, &[], false, false),
            (Auto, &[("NO_COLOR", "1")], true, false),
            (Auto, &[("NO_COLOR", "")], true, true),
            (Auto, &[("CLICOLOR", "0")], true, false),
            (Auto, &[("TERM", "dumb")], true, false),
            (Auto, &[("CLICOLOR_FORCE", "1")], false, true),
            (Auto, &[("CLICOLOR_FORCE", "0")], false, false),
            (Auto, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false, false),
            (Always, &[("NO_COLOR", "1")], false, true),
            (Never, &[("CLICOLOR_FORCE", "1")], true, false),
        ] {
            assert_eq!(
                is_on(when, &set(variables), is_terminal),
                expected,
                "{when:?} {variables:?}"
            );
        }
    }

    #[test]
    fn text_of_others_cannot_control_the_terminal() {
        assert_eq!(printable("a\x1b[31mred\x1b]0;title\x07\r\nb\tc"), "ared  b c");
    }
}
