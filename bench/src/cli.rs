//! The command line: from the start of `cial version` to its first output, beside `true`, which prints nothing and ends.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use testkit::TempDir;
use testkit::clock::now;
use testkit::installation::required;

use crate::Measured;
use crate::figure::{Environment, Figure};

/// One start takes milliseconds, so there are many for each of `--times`.
const STARTS: usize = 10;

pub(crate) fn measure(times: usize) -> Result<Measured> {
    let program = required("CIAL_E2E_CIAL")?;
    let environment = Environment::machine().and("starts", times * STARTS);
    // Without a configuration there is no server to ask for its version.
    let home = TempDir::new("bench-cli")?;
    let pair = || anyhow::Ok((start(&program, home.path())?, start("true", home.path())?));
    pair()?;
    let pairs = (0..times * STARTS).map(|_| pair()).collect::<Result<Vec<_>>>()?;
    Ok((environment, figures(&pairs)))
}

/// The time until a program prints, or ends.
fn start(program: &str, home: &Path) -> Result<Duration> {
    let mut command = Command::new(program);
    command.arg("version").env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin");
    let begin = now();
    let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?;
    let read = child.stdout.take().context("its output is a pipe")?.read(&mut [0; 4_096]);
    let elapsed = begin.elapsed();
    read.with_context(|| format!("cannot read what {program} prints"))?;
    let status = child.wait()?;
    ensure!(status.success(), "{program} version: {status}");
    Ok(elapsed)
}

/// The figures of pairs: `cial`, and `true` right after it.
fn figures(pairs: &[(Duration, Duration)]) -> Vec<Figure> {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1_000.0;
    let cial: Vec<_> = pairs.iter().map(|(cial, _)| milliseconds(*cial)).collect();
    let floor: Vec<_> = pairs.iter().map(|(_, floor)| milliseconds(*floor)).collect();
    let ratios: Vec<_> = cial.iter().zip(&floor).map(|(cial, floor)| cial / floor).collect();
    vec![
        Figure::median("cial version, start to first output", &cial, "ms").bar(15.0),
        Figure::median("true, start to end", &floor, "ms"),
        Figure::median("cial version / true", &ratios, ""),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_many_starts_counts() {
        let pair = |cial, floor| (Duration::from_millis(cial), Duration::from_millis(floor));
        let quick = figures(&[pair(4, 1), pair(6, 2), pair(900, 1)]);
        assert!(quick.iter().all(Figure::holds), "{quick:?}");
        assert_eq!((quick[0].value, quick[2].value), (6.0, 4.0));
        assert!(!figures(&[pair(16, 1)])[0].holds());
    }

    #[test]
    fn a_program_that_fails_is_no_figure() {
        let home = TempDir::new("bench-cli").unwrap();
        assert!(start("true", home.path()).unwrap() < Duration::from_secs(5));
        assert!(start("false", home.path()).is_err());
        assert!(start("/nonexistent", home.path()).is_err());
    }
}
