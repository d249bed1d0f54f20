//! Text that no log may hold: secrets, passwords, cookies, and everything that looks like a token.

use anyhow::{Context as _, Result, ensure};
use testkit::Installation;
use testkit::engine::TenantContainer;

use crate::Parts;

/// Shorter values are words that a log may hold by chance.
const MIN_LENGTH: usize = 8;
const API_KEY_PREFIX: &str = "cial_";
/// The characters of 32 bytes, before the checksum.
const API_KEY_LENGTH: usize = 43;
/// Together these two services have a copy of every secret.
const SECRET_HOLDERS: [&str; 2] = ["app-api", "orchestrator"];

/// Searches every log of an installation for the values in `known`, for the installation's secrets, and for tokens of
/// any kind. Returns the number of containers that logged something.
///
/// # Errors
/// A log holds one of them; the message names container and line, and never the value.
pub async fn search_logs(installation: &Installation, known: &[String]) -> Result<usize> {
    let (docker, parts) = (testkit::engine::connect().await?, Parts::of(installation));
    let mut known = known.to_vec();
    for service in SECRET_HOLDERS {
        let holder = TenantContainer::existing(&docker, &parts.service(service).await?.id);
        known.extend(secrets_of(&holder).await.with_context(|| format!("secrets of {service}"))?);
    }
    let (mut leaks, mut logged) = (Vec::new(), 0);
    for container in parts.containers().await? {
        let text = TenantContainer::existing(&docker, &container.id).logs().await?;
        let found = find(&text, &known).into_iter();
        leaks.extend(found.map(|leak| format!("{}, {leak}", container.name)));
        logged += usize::from(!text.trim().is_empty());
    }
    ensure!(leaks.is_empty(), "logs hold what they must not:\n{}", leaks.join("\n"));
    Ok(logged)
}

async fn secrets_of(holder: &TenantContainer) -> Result<Vec<String>> {
    let each = "for file in /run/cial/secrets/*; do cat \"$file\"; echo; done";
    let output = holder.exec_shell("1000", each).await?.text;
    let lines = output.lines().map(str::trim).filter(|line| line.len() >= MIN_LENGTH);
    let secrets: Vec<_> = lines.map(str::to_owned).collect();
    ensure!(!secrets.is_empty(), "there are none to search for: {output}");
    Ok(secrets)
}

/// The leaks of a text by line number, without their values.
fn find(text: &str, known: &[String]) -> Vec<String> {
    let mut leaks = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if known.iter().any(|value| value.len() >= MIN_LENGTH && line.contains(value.as_str())) {
            leaks.push(format!("line {number}: a secret, a password or a cookie"));
        }
        if line.match_indices("eyJ").any(|(at, _)| is_jwt(&line[at..])) {
            leaks.push(format!("line {number}: what looks like a signed token"));
        }
        if line.match_indices(API_KEY_PREFIX).any(|(at, start)| is_key(&line[at + start.len()..])) {
            leaks.push(format!("line {number}: what looks like an API key"));
        }
        if line.match_indices("token=").any(|(at, start)| is_value(&line[at + start.len()..])) {
            leaks.push(format!("line {number}: a token in an address"));
        }
    }
    leaks
}

/// Whether a text starts with two parts of a JSON web token; the first part always encodes `{"`.
fn is_jwt(text: &str) -> bool {
    let mut parts =
        text.split('.').map(|part| part.chars().take_while(|c| is_token_char(*c)).count());
    parts.next().is_some_and(|header| header >= MIN_LENGTH)
        && parts.next().is_some_and(|claims| claims >= MIN_LENGTH)
}

fn is_key(text: &str) -> bool {
    text.chars().take_while(|c| is_token_char(*c)).count() >= API_KEY_LENGTH
}

fn is_value(text: &str) -> bool {
    text.chars().take_while(|c| is_token_char(*c)).count() >= MIN_LENGTH
}

fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaks_are_found_and_lookalikes_are_not() {
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
            ("key cial_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA refused", 1),
            ("volume cial_postgres_data-of-an-installation", 0),
            ("heyJude.com is no token", 0),
            ("eyJ", 0),
        ];
        for (line, leaks) in cases {
            assert_eq!(find(line, &known).len(), leaks, "{line}");
        }
        assert_eq!(find("one\n/?token=abcdefgh", &known), ["line 2: a token in an address"]);
    }
}
