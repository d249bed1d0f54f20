//! Hashes the style sheets and the script of the router's pages, whose policies allow them by their
//! hashes and nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

const HASHED: [(&str, &str); 3] = [
    ("PROBLEM_STYLE_SHA256", "templates/problem.css"),
    ("WAITING_STYLE_SHA256", "templates/waiting.css"),
    ("WAITING_SCRIPT_SHA256", "templates/waiting.js"),
];

fn main() -> std::io::Result<()> {
    for (name, path) in HASHED {
        let hash = STANDARD.encode(Sha256::digest(std::fs::read(path)?));
        println!("cargo::rerun-if-changed={path}");
        println!("cargo::rustc-env={name}={hash}");
    }
    Ok(())
}
