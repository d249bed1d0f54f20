//! Settings of a service, as the environment gives them.

use std::sync::OnceLock;

const SECRET: &str = "8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa";

/// Reads the bytes as the router's environment, one `NAME=value` a line. Every secret's file holds the same secret.
///
/// # Panics
/// An error names no setting, or quotes the secret.
pub fn settings(bytes: &[u8]) {
    static SECRET_FILE: OnceLock<tempfile::NamedTempFile> = OnceLock::new();
    let file = SECRET_FILE.get_or_init(|| {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(&file, SECRET).expect("a temporary file is writable");
        file
    });
    let Ok(text) = String::from_utf8(bytes.to_vec()) else { return };
    let secret = file.path().display().to_string();
    let lookup = move |name: &str| {
        if name.ends_with("_FILE") {
            return Some(secret.clone());
        }
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.rev().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned())
    };
    if let Err(errors) = router::settings::Settings::read(&lookup) {
        assert!(!errors.0.is_empty());
        for error in errors.0 {
            assert!(error.starts_with("CIAL_"), "{error}");
            assert!(!error.contains(SECRET), "{error}");
        }
    }
}
