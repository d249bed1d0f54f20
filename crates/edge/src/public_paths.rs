//! The paths of a tenant's app that clients reach without a session although the tenant requires sign-in. Pure.

use crate::routes::is_plain;

/// As the manifest of the app lists them.
#[derive(Debug, Default)]
pub struct PublicPaths(Vec<String>);

impl PublicPaths {
    /// Reads a list in JSON.
    ///
    /// # Errors
    /// The text is no JSON list of texts.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text).map(Self)
    }

    /// Whether a path (without its query) is public. A path that servers read in different ways is not: the app might serve
    /// another one than the edge compared.
    pub fn contains(&self, path: &str) -> bool {
        let is_listed = |listed: &String| match listed.ends_with('/') {
            true => path.starts_with(listed.as_str()),
            false => path == listed,
        };
        is_plain(path) && self.0.iter().any(is_listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_public_by_its_plain_spelling_alone() {
        let paths = PublicPaths::parse(r#"["/webhooks/", "/robots.txt"]"#).unwrap();
        for (path, expected) in [
            ("/webhooks/", true),
            ("/webhooks/stripe/1", true),
            ("/webhooks", false),
            ("/webhooksx", false),
            ("/Webhooks/", false),
            ("/webhooks/../admin", false),
            ("/webhooks/%2e%2e/admin", false),
            ("/webhooks//admin", false),
            ("/webhooks/..;/admin", false),
            ("/webhooks/\\..\\admin", false),
            ("/robots.txt", true),
            ("/robots.txt/", false),
            ("/robots.txtx", false),
            ("/", false),
        ] {
            assert_eq!(paths.contains(path), expected, "{path}");
        }
        assert!(PublicPaths::parse(r#"["/"]"#).unwrap().contains("/any/path"));
        assert!(!PublicPaths::default().contains("/"));
        assert!(PublicPaths::parse("/webhooks/").is_err());
    }
}
