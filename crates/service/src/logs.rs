//! Logs of the control plane: one JSON object a line on stderr.

use std::fmt;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The log filter: a level, or levels of modules too, with commas between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

/// A text that is not a log filter.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidLogFilter;

/// Starts logging. Call once, before the first log line.
pub fn init(filter: &LogFilter) {
    let lines = tracing_subscriber::fmt().json().flatten_event(true).with_current_span(true);
    let lines = lines.with_env_filter(EnvFilter::new(&filter.0)).with_writer(std::io::stderr);
    // A second call, as in tests, keeps the first subscriber.
    let _ = lines.try_init();
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for LogFilter {
    type Err = InvalidLogFilter;

    /// Stricter than `EnvFilter`, which takes a misspelt level for a module and then logs nothing else.
    fn from_str(text: &str) -> Result<Self, InvalidLogFilter> {
        let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
        let in_module = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let is_module = |word: &str| !word.is_empty() && word.chars().all(in_module);
        let fits = |part: &str| match part.split_once('=') {
            Some((module, level)) => is_module(module) && is_level(level),
            None => is_level(part),
        };
        if text.split(',').all(fits) { Ok(Self(text.to_owned())) } else { Err(InvalidLogFilter) }
    }
}

impl fmt::Display for InvalidLogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be off, error, warn, info, debug or trace, or levels of modules too, like info,router=debug")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_by_the_table() {
        for good in ["info", "WARN", "off", "info,router=debug", "app_api::db=trace,error"] {
            assert!(good.parse::<LogFilter>().is_ok(), "{good}");
            assert!(good.parse::<EnvFilter>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ",",
            "inof",
            "loud",
            "info,",
            "info,router",
            "router=",
            "=debug",
            "router=loud",
            "info debug",
            "info;debug",
        ] {
            assert_eq!(bad.parse::<LogFilter>(), Err(InvalidLogFilter), "{bad:?}");
        }
    }
}
