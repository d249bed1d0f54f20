//! `init` and `manifest`, which need no server.

use crate::support::Cial;

#[test]
fn init_writes_a_manifest_without_faults_and_replaces_none() {
    let cial = Cial::new();
    let path = cial.home().join("cial.toml");
    let file = path.to_str().unwrap();
    let run = |args: &[&str]| cial.run(args);
    assert!(run(&["init", file]).contains("exit code 0"));
    assert_eq!(std::fs::read_to_string(file).unwrap(), manifest::TEMPLATE);
    assert!(run(&["manifest", "check", file]).contains("exit code 0"));
    std::fs::write(file, "port = 5000\n").unwrap();
    let refused = run(&["init", file]);
    assert!(refused.contains("exit code 1") && refused.contains("--force"), "{refused}");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "port = 5000\n");
    assert!(run(&["init", "--force", file]).contains("exit code 0"));
    assert_eq!(std::fs::read_to_string(file).unwrap(), manifest::TEMPLATE);
}

#[test]
fn check_names_all_faults_with_their_places() {
    let cial = Cial::new();
    let refused = cial.run_with_input(&["manifest", "check", "-"], "prot = 3000\nport = 80\n");
    for expected in [
        "exit code 1",
        "has 2 faults",
        "line 1, column 1: prot is unknown; did you mean port?",
        "line 2, column 8: port must not be a privileged port",
    ] {
        assert!(refused.contains(expected), "{refused}");
    }
    let missing = cial.run(&["manifest", "check", "missing.toml"]);
    assert!(missing.contains("exit code 1") && missing.contains("cial init"), "{missing}");
}

#[test]
fn the_schema_is_json() {
    let shown = Cial::new().command(&["manifest", "schema"]).output().unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(schema["additionalProperties"], false);
}
