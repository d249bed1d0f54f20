//! Classifies the engine's message about a failed pull: the cause, and the remedy for a person. Pure.

use protocol::images::RegistryImage;

use super::progress::{Interruption, MAX_SILENCE};
use crate::driver::{DriverError, DriverErrorCode};

/// A registry can send any text.
const MAX_MESSAGE_CHARS: usize = 300;

const FULL: &[&str] = &["no space left on device"];
const OTHER_CONTENT: &[&str] = &["verification failed for digest", "failed commit on ref"];
const OTHER_MACHINE: &[&str] = &["no matching manifest for"];
const UNKNOWN: &[&str] =
    &["manifest unknown", "name unknown", "name_unknown", "manifest_unknown", "not found"];
const DENIED: &[&str] = &[
    "no basic auth credentials",
    "unauthorized",
    "authentication required",
    "authorization failed",
    "denied",
    "forbidden",
    "incorrect username or password",
];
const TOO_MANY: &[&str] = &["toomanyrequests", "too many requests"];
const NO_ADDRESS: &[&str] =
    &["no such host", "server misbehaving", "temporary failure in name resolution"];
const TLS: &[&str] = &["x509", "tls:", "certificate", "gave http response to https client"];
const BROKEN: &[&str] = &[
    "connection refused",
    "connection reset",
    "no route to host",
    "network is unreachable",
    "timeout",
    "deadline exceeded",
    "eof",
    "unexpected http status",
    "unexpected status code",
    "http 206",
    "error unmarshalling",
    "error parsing http",
    "invalid character",
    "dial tcp",
    "broken pipe",
    "malformed http",
];

/// Classifies the message of an engine that pulled `image`. `username` is that of the stored credentials.
pub(super) fn classify(
    message: &str,
    image: &RegistryImage,
    username: Option<&str>,
) -> DriverError {
    use DriverErrorCode as C;
    let said = printable(message);
    let text = without_names(&said, image).to_lowercase();
    let has = |needles: &[&str]| needles.iter().any(|needle| text.contains(needle));
    let host = image.host();
    let (code, detail) = if has(FULL) {
        (C::DiskFull, format!("The engine's disk is full: {said}. Free some space there."))
    } else if has(OTHER_CONTENT) {
        let remedy = "Correct the digest, or push the image anew.";
        let what = "sent something else than the digest names";
        (C::ImageInvalid, format!("The registry {host} {what}, for {image}: {said}. {remedy}"))
    } else if has(OTHER_MACHINE) {
        let remedy = "Build the image for this machine.";
        (C::ImageInvalid, format!("The image {image} is for other machines: {said}. {remedy}"))
    } else if has(TOO_MANY) {
        let remedy = "Try again later, or with credentials: `cial registries set`.";
        (C::RegistryRefused, format!("The registry {host} limits pulls: {said}. {remedy}"))
    } else if has(DENIED) {
        (C::RegistryRefused, denied(&said, image, username))
    } else if has(NO_ADDRESS) {
        let remedy = "Correct the name, or the engine's DNS.";
        let what = format!("The engine finds no address of the registry {host}");
        (C::RegistryUnreachable, format!("{what}: {said}. {remedy}"))
    } else if has(UNKNOWN) {
        let remedy = "Correct the name, or push the image.";
        let what = format!("The registry {host} has no image {image}");
        (C::ImageMissing, format!("{what}: {said}. {remedy}"))
    } else if has(TLS) || is_tls_hangup(&said) {
        let remedy = format!(
            "Give the registry a certificate that the engine trusts, or list {host} in the engine's `insecure-registries`."
        );
        let what = format!("The engine has no trusted TLS connection to the registry {host}");
        (C::RegistryUnreachable, format!("{what}: {said}. {remedy}"))
    } else if has(BROKEN) {
        let remedy = "Look whether it runs, and whether the engine reaches it.";
        let what = format!("The registry {host} does not respond as it should");
        (C::RegistryUnreachable, format!("{what}: {said}. {remedy}"))
    } else {
        (C::EngineRefused, format!("The engine did not pull {image}: {said}. Read its log."))
    };
    DriverError::new(code, detail)
}

/// The error of a pull that this process gave up.
pub(super) fn interrupted(image: &RegistryImage, why: &Interruption) -> DriverError {
    let host = image.host();
    let what = match why {
        Interruption::BrokenOff { layer, times } => {
            format!("The registry {host} broke off the layer {layer} of {image} {times} times.")
        }
        Interruption::Silent => {
            let seconds = MAX_SILENCE.as_secs();
            format!("The registry {host} sent nothing of {image} for {seconds} s.")
        }
    };
    let detail = format!("{what} Look at the registry, then try again.");
    DriverError::new(DriverErrorCode::RegistryUnreachable, detail)
}

pub(super) fn no_response(image: &RegistryImage) -> DriverError {
    let host = image.host();
    let detail = format!(
        "The registry {host} does not respond. Look whether it runs, and whether the engine reaches it."
    );
    DriverError::new(DriverErrorCode::RegistryUnreachable, detail)
}

pub(super) fn too_slow(image: &RegistryImage, minutes: u64) -> DriverError {
    let detail = format!(
        "The pull of {image} took longer than {minutes} minutes. Pull it on the engine's machine, then try again."
    );
    DriverError::new(DriverErrorCode::RegistryUnreachable, detail)
}

fn denied(said: &str, image: &RegistryImage, username: Option<&str>) -> String {
    let host = image.host();
    let store = |name: &str| format!("`cial registries set {host} --username {name} < password`");
    match username {
        None => format!(
            "The registry {host} does not give {image} to everybody: {said}. If the name is right, store credentials with {}.",
            store("NAME")
        ),
        Some(name) => format!(
            "The registry {host} does not give {image} to the stored account {name}: {said}. Let the account pull it, or store \
             other credentials with {}.",
            store("NAME")
        ),
    }
}

/// A registry without TLS hangs up on the engine's greeting.
fn is_tls_hangup(said: &str) -> bool {
    said.contains("\"https://") && said.ends_with(": EOF")
}

/// Removes the image's name from the message: anybody may choose it, and it must not pass for the reason.
fn without_names(said: &str, image: &RegistryImage) -> String {
    let repository = image.repository();
    said.replace(&repository.to_string(), "")
        .replace(&format!("/v2/{}/", repository.path()), "/")
        .replace(image.host().as_str(), "")
}

/// A text of the registry that a terminal can show: no control characters, not endless, and without the queries of
/// addresses, which may hold signatures.
fn printable(message: &str) -> String {
    let mut text = String::new();
    let mut is_query = false;
    for c in message.trim().chars().take(MAX_MESSAGE_CHARS * 4) {
        let ends_query = c == '"' || c.is_whitespace();
        is_query = (is_query || c == '?') && !ends_query;
        if !is_query {
            text.push(if c.is_control() { ' ' } else { c });
        }
    }
    let text: String = text.chars().take(MAX_MESSAGE_CHARS).collect();
    text.trim_end_matches(['.', ' ']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "r.example:5000/team/notes:1";

    fn image(name: &str) -> RegistryImage {
        RegistryImage::parse(name).unwrap().unwrap()
    }

    /// Messages of Docker 20.10 and of well-known registries.
    #[test]
    fn each_message_has_its_reason_and_remedy() {
        let table = [
            r#"Get "http://r.example:5000/v2/": dial tcp 127.0.0.1:5998: connect: connection refused"#,
            r#"Get "https://r.example:5000/v2/": dial tcp: lookup r.example on 10.0.0.1:53: no such host"#,
            r#"Get "https://r.example:5000/v2/": x509: certificate signed by unknown authority"#,
            r#"Get "https://r.example:5000/v2/": http: server gave HTTP response to HTTPS client"#,
            r#"Get "https://r.example:5000/v2/": EOF"#,
            r#"Head "http://r.example:5000/v2/team/notes/manifests/1": no basic auth credentials"#,
            "unauthorized: authentication required",
            "denied",
            "pull access denied for r.example:5000/team/notes, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
            "manifest for r.example:5000/team/notes:1 not found: manifest unknown: manifest unknown",
            "name unknown: The repository with name 'team/notes' does not exist in the registry",
            "no matching manifest for linux/amd64 in the manifest list entries",
            "manifest verification failed for digest sha256:12",
            "filesystem layer verification failed for digest sha256:94",
            "toomanyrequests: You have reached your pull rate limit.",
            "received unexpected HTTP status: 500 Internal Server Error",
            "expected HTTP 206 from byte range request",
            "write /var/lib/docker/tmp/GetImageBlob1: no space left on device",
            "something new",
        ];
        let line = |message: &&str| {
            let DriverError { code, detail } = classify(message, &image(NAME), None);
            format!("{}: {detail}", code.as_str())
        };
        let lines: Vec<_> = table.iter().map(line).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn stored_credentials_that_do_not_suffice_are_named_by_their_account() {
        let refused = classify("unauthorized", &image(NAME), Some("bob"));
        insta::assert_snapshot!(refused.detail, @"The registry r.example:5000 does not give r.example:5000/team/notes:1 to the stored account bob: unauthorized. Let the account pull it, or store other credentials with `cial registries set r.example:5000 --username NAME < password`.");
    }

    #[test]
    fn a_name_does_not_pass_for_a_reason() {
        for name in ["denied.example/denied/x509:1", "r.example/unauthorized"] {
            let repository = image(name).repository().to_string();
            let message = format!("manifest for {repository}:1 not found: manifest unknown");
            let found = classify(&message, &image(name), None);
            assert_eq!(found.code, DriverErrorCode::ImageMissing, "{found}");
            let path = image(name).repository().path().to_owned();
            let message = format!(
                r#"Head "http://{}/v2/{path}/manifests/1": dial tcp: connection refused"#,
                image(name).host(),
            );
            let found = classify(&message, &image(name), None);
            assert_eq!(found.code, DriverErrorCode::RegistryUnreachable, "{found}");
        }
    }

    #[test]
    fn a_registry_controls_no_terminal_and_its_signatures_are_not_shown() {
        let message = format!(
            "Get \"https://cdn.example/blob?X-Signature=abc&b=1\": \x1b[31mEOF\n{}",
            "x".repeat(5_000)
        );
        let text = printable(&message);
        assert!(text.starts_with("Get \"https://cdn.example/blob\":  [31mEOF "), "{text}");
        assert_eq!(text.chars().count(), MAX_MESSAGE_CHARS);
    }

    #[test]
    fn a_pull_that_was_given_up_says_why() {
        let image = image(NAME);
        let layer = Interruption::BrokenOff { layer: "f339".to_owned(), times: 3 };
        let lines = [
            interrupted(&image, &layer),
            interrupted(&image, &Interruption::Silent),
            no_response(&image),
            too_slow(&image, 30),
        ];
        assert!(lines.iter().all(|e| e.code == DriverErrorCode::RegistryUnreachable));
        let lines: Vec<_> = lines.iter().map(|error| error.detail.as_str()).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        The registry r.example:5000 broke off the layer f339 of r.example:5000/team/notes:1 3 times. Look at the registry, then try again.
        The registry r.example:5000 sent nothing of r.example:5000/team/notes:1 for 120 s. Look at the registry, then try again.
        The registry r.example:5000 does not respond. Look whether it runs, and whether the engine reaches it.
        The pull of r.example:5000/team/notes:1 took longer than 30 minutes. Pull it on the engine's machine, then try again.
        ");
    }
}
