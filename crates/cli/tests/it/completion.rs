//! Completion in shells, with the names of the server.

use std::process::Command;

use serde_json::json;

use crate::support::{Cial, Server, json as json_response, tenant};

/// The candidates that a shell's script gets for the last of `words`.
fn candidates(cial: &Cial, words: &[&str]) -> Vec<String> {
    let mut command = cial.command(&[&["--", "cial"], words].concat());
    command.env("CIAL_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", words.len().to_string());
    command
        .env("_CLAP_COMPLETE_COMP_TYPE", "9")
        .env("_CLAP_COMPLETE_SPACE", "true")
        .env("_CLAP_IFS", "\n");
    let output = command.output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn names_of_tenants_and_profiles_are_completed() {
    let tenants = json!({ "tenants": [tenant("acme", "running"), tenant("acme-2", "stopped"), tenant("globex", "running")] });
    let server = Server::always(json_response("200 OK", &tenants));
    let config = "[profiles.local]\n[profiles.prod]\n";
    let cial = Cial::at(&server).file(".cial/config.toml", config);
    assert_eq!(candidates(&cial, &["tenants", "get", "ac"]), ["acme", "acme-2"]);
    assert_eq!(candidates(&cial, &["members", "list", "--tenant", "g"]), ["globex"]);
    assert_eq!(candidates(&cial, &["--profile", "p"]), ["prod"]);
    assert_eq!(candidates(&cial, &["profile", "use", "l"]), ["local"]);
    assert_eq!(candidates(&cial, &["tenants", "wait", "--for", "st"]), ["stopped"]);
    assert_eq!(candidates(&cial, &["who"]), ["whoami"]);
}

#[test]
fn a_server_that_is_down_completes_nothing_and_disturbs_nobody() {
    let cial = Cial::new().server("http://127.0.0.1:1").variable("CIAL_API_KEY", "cial_x");
    assert_eq!(candidates(&cial, &["tenants", "get", "ac"]), [""; 0]);
}

/// Each script is read by its shell, where the machine has one.
#[test]
fn scripts_are_valid_in_their_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let output = Cial::new().command(&["completion", shell]).output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{shell}");
        let path =
            std::env::temp_dir().join(format!("cial-completion-{}-{shell}", std::process::id()));
        std::fs::write(&path, &output.stdout).unwrap();
        let checked = Command::new(shell).arg("-n").arg(&path).output();
        std::fs::remove_file(&path).unwrap();
        if let Ok(checked) = checked {
            assert!(
                checked.status.success(),
                "{shell}: {}",
                String::from_utf8_lossy(&checked.stderr)
            );
        }
    }
}

#[test]
fn man_pages_are_written_for_every_command() {
    let cial = Cial::new();
    let folder = cial.home().join("man");
    let output = cial.run(&["man", "--dir", folder.to_str().unwrap()]);
    assert!(output.contains("exit code 0"), "{output}");
    for page in ["cial.1", "cial-tenants.1", "cial-tenants-create.1", "cial-login.1"] {
        let text = std::fs::read_to_string(folder.join(page)).unwrap();
        assert!(text.starts_with(".ie") || text.contains(".TH"), "{page}: {text}");
    }
}
