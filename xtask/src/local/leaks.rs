//! What no log may hold: secrets, passwords, cookies, and whatever looks like a token.

use anyhow::{Context as _, Result, ensure};
use bollard::Docker;

use super::compose::Compose;
use super::engine;
use super::installation::Installation;

/// Shorter values are words that a log may hold by chance.
const SHORTEST: usize = 8;
/// Between them these two have a copy of every secret.
const KEEPERS: [&str; 2] = ["app-api", "orchestrator"];

/// Looks through all that the containers of an installation have said, for what `known` lists, for the
/// installation's own secrets, and for tokens of any kind. Tells how many containers said something.
pub async fn examine(
    docker: &Docker,
    compose: &Compose,
    installation: &Installation,
    known: &[String],
) -> Result<usize> {
    let mut known = known.to_vec();
    for service in KEEPERS {
        known.extend(secrets(compose, installation, service)?);
    }
    let (mut heard, mut leaks) = (0, Vec::new());
    for labels in [engine::of_project(installation), engine::of_tenants(installation)] {
        for container in engine::containers(docker, labels).await? {
            let said =
                engine::said(docker, container.id.as_deref().unwrap_or_default(), "all").await;
            heard += usize::from(!said.trim().is_empty());
            let name = engine::name(&container);
            leaks.extend(find(&said, &known).into_iter().map(|leak| format!("{name}, {leak}")));
        }
    }
    ensure!(leaks.is_empty(), "logs hold what they must not:\n{}", leaks.join("\n"));
    Ok(heard)
}

/// The secrets that a running service has.
fn secrets(compose: &Compose, installation: &Installation, service: &str) -> Result<Vec<String>> {
    let each = "for file in /run/cial/secrets/*; do cat \"$file\"; echo; done";
    let mut exec = compose.command(installation);
    exec.args(["exec", "-T", "--user", "1000", service, "sh", "-c", each]);
    let output = exec.output().context("cannot run compose")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let secrets: Vec<_> =
        text.lines().filter(|line| line.len() >= SHORTEST).map(str::to_owned).collect();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!secrets.is_empty(), "{service} shows no secrets to look for: {}", said.trim());
    Ok(secrets)
}

/// The lines that hold what they must not, by their numbers: what is not to be seen is not shown here, either.
fn find(said: &str, known: &[String]) -> Vec<String> {
    let mut leaks = Vec::new();
    for (index, line) in said.lines().enumerate() {
        let number = index + 1;
        if known.iter().any(|value| value.len() >= SHORTEST && line.contains(value.as_str())) {
            leaks.push(format!("line {number}: a secret, a password or a cookie"));
        }
        if line.match_indices("eyJ").any(|(at, _)| is_jwt(&line[at..])) {
            leaks.push(format!("line {number}: what looks like a signed token"));
        }
        if line.match_indices("token=").any(|(at, start)| is_value(&line[at + start.len()..])) {
            leaks.push(format!("line {number}: a token in an address"));
        }
    }
    leaks
}

/// Two parts of a JSON web token, at least: the first always starts with an encoded `{"`.
fn is_jwt(text: &str) -> bool {
    let mut parts = text.split('.').map(|part| part.chars().take_while(|c| is_token(*c)).count());
    parts.next().is_some_and(|header| header >= SHORTEST)
        && parts.next().is_some_and(|claims| claims >= SHORTEST)
}

fn is_value(text: &str) -> bool {
    text.chars().take_while(|c| is_token(*c)).count() >= SHORTEST
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_not_be_said_is_found() {
        let known = ["a long enough pass phrase".to_owned(), "short".to_owned()];
        let cases = [
            ("GET / 200", 0),
            ("a short line", 0),
            ("{\"password\":\"a long enough pass phrase\"}", 1),
            ("GET /.cial/sso?token=abcdefghijkl 303", 1),
            ("GET /.cial/sso?token=… 303", 0),
            ("GET /.cial/sso?token=[redacted] 303", 0),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl", 1),
            ("GET /?token=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl", 2),
            ("heyJude.com is no token", 0),
            ("eyJ", 0),
        ];
        for (line, leaks) in cases {
            assert_eq!(find(line, &known).len(), leaks, "{line}");
        }
        assert_eq!(find("one\n/?token=abcdefgh", &known), ["line 2: a token in an address"]);
    }
}
