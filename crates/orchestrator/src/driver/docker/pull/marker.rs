//! The marker: a name of our own that a pulled image gets, from which its repository can be read again. Pure.

use protocol::InstallName;
use protocol::images::Repository;

const PREFIX: &str = "cial-pulled-";
/// In the place of a port that the registry's name does not mention.
const NO_PORT: &str = "0";
const ID_DIGITS: usize = 16;

/// The repository part: `cial-pulled-{install}/{port}/{host}/{path}`.
pub(super) fn name(install: &InstallName, repository: &Repository) -> String {
    let host = repository.host().as_str();
    let (host, port) = host.split_once(':').unwrap_or((host, NO_PORT));
    format!("{PREFIX}{install}/{port}/{host}/{}", repository.path())
}

/// The tag: the first digits of the image's id, so that a tag that moves to another image in its registry leaves both marked.
pub(super) fn tag(image_id: &str) -> &str {
    let digits = image_id.strip_prefix("sha256:").unwrap_or(image_id);
    digits.get(..ID_DIGITS).unwrap_or(digits)
}

/// The repository from which this installation pulled the image with this name; `None` for any other name.
pub(super) fn repository(install: &InstallName, name: &str) -> Option<Repository> {
    let (owner, rest) = name.strip_prefix(PREFIX)?.split_once('/')?;
    if owner != install.as_str() {
        return None;
    }
    let (rest, _tag) = rest.rsplit_once(':')?;
    let (port, rest) = rest.split_once('/')?;
    let (host, path) = rest.split_once('/')?;
    let host = if port == NO_PORT { host.to_owned() } else { format!("{host}:{port}") };
    Repository::new(host.parse().ok()?, path).ok()
}

/// Whether an installation, ours or another, pulled the image with this name.
pub(super) fn is_marker(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|rest| rest.contains('/'))
}

/// Whether another installation pulled the image with this name.
pub(super) fn is_of_another(install: &InstallName, name: &str) -> bool {
    let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('/'));
    owner.is_some_and(|(owner, _)| owner != install.as_str())
}

#[cfg(test)]
mod tests {
    use protocol::images::RegistryImage;

    use super::*;

    #[test]
    fn a_marker_names_the_installation_and_the_repository() {
        let [install, other] = ["local", "local-2"].map(|name| name.parse().unwrap());
        for (image, expected) in [
            ("127.0.0.1:5000/team/notes:1", "cial-pulled-local/5000/127.0.0.1/team/notes"),
            ("r.example/notes", "cial-pulled-local/0/r.example/notes"),
        ] {
            let image = RegistryImage::parse(image).unwrap().unwrap();
            let marker = name(&install, image.repository());
            assert_eq!(marker, expected);
            let listed = format!("{marker}:{}", tag("sha256:0123456789abcdef01"));
            assert!(listed.ends_with(":0123456789abcdef"), "{listed}");
            assert_eq!(repository(&install, &listed).as_ref(), Some(image.repository()));
            assert_eq!(repository(&other, &listed), None);
            assert!(is_marker(&listed));
            assert!(!is_of_another(&install, &listed) && is_of_another(&other, &listed));
        }
        for listed in ["r.example/notes:1", "cial-app-local:1", "cial-pulled-local:1", "<none>"] {
            assert_eq!(repository(&install, listed), None, "{listed}");
            assert!(!is_of_another(&install, listed) && !is_marker(listed), "{listed}");
        }
    }
}
