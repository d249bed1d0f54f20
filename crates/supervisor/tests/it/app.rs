//! A tenant with an app: its program in the place of the platform's two services.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, chown};

use nix::sys::signal::Signal;
use protocol::inside::{AGENT_UID, APP_PROCESS, APP_VARIABLES, DATABASE_URL, DATABASE_URL_FILE};
use protocol::process::{AppProcess, Hooks};

use crate::stage::{Set, Stage};

/// The variable of an app whose program is the stage's own.
pub(crate) fn app(set: &Set, health_path: Option<&str>) -> (&'static str, String) {
    // Free when the test begins; PID 1 opens no port of the app.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let program = set.directory.join("programs/app");
    let process = AppProcess {
        command: vec![program.to_str().unwrap().to_owned(), "--flag".to_owned()],
        working_dir: "/".to_owned(),
        env: [("GREETING".to_owned(), "hello".to_owned())].into(),
        port,
        health_path: health_path.map(str::to_owned),
        chat: None,
        hooks: Hooks::default(),
        release: String::new(),
    };
    (APP_PROCESS, serde_json::to_string(&process).unwrap())
}

#[test]
fn the_program_runs_without_privileges_and_is_ready_when_it_answers() {
    for health_path in [None, Some("/up")] {
        let set = Stage::prepare();
        let app = app(&set, health_path);
        let mut stage = set.start_with("core-back:hear", &[app]);
        stage.lines([
            &|line| line == "[platform-front] Uid: 1001 1001 1001 1001",
            &|line| line == "[platform-front] Gid: 1001 1001 1001 1001",
            &|line| line == "[platform-front] NoNewPrivs: 1",
            &|line| line == "[platform-front] CapBnd: 0000000000000000",
            &|line| line.starts_with("[platform-front] SigBlk: 0000000000000000"),
            // No listener and no link: the fourth is the program's own port.
            &|line| line == "[platform-front] fds [0, 1, 2, 3]",
            &|line| line == "[core-back] heard all-ready",
        ]);
        stage.signal(Signal::SIGTERM);
        let (code, lines) = stage.end();
        assert_eq!(code, Some(0), "{lines:#?}");
        assert!(!lines.iter().any(|line| line.contains("platform-back")), "{lines:#?}");
    }
}

#[test]
fn a_program_that_does_not_exist_is_named() {
    let process = serde_json::json!({
        "command": ["/nowhere/notes"], "working_dir": "/", "env": {}, "port": 3000,
    });
    let stage = Stage::prepare().start_with("", &[(APP_PROCESS, process.to_string())]);
    let (code, lines) = stage.end();
    assert_eq!(code, Some(1));
    let named = lines.iter().any(|line| line.contains("/nowhere/notes cannot be started in /"));
    assert!(named, "{lines:#?}");
}

#[test]
fn the_working_folder_is_entered_as_the_user_of_the_app() {
    let run = |owner: u32| {
        let set = Stage::prepare();
        let place = set.directory.join("work");
        fs::create_dir(&place).unwrap();
        fs::set_permissions(&place, Permissions::from_mode(0o700)).unwrap();
        chown(&place, Some(owner), Some(owner)).unwrap();
        let process = AppProcess {
            command: vec!["pwd".to_owned()],
            working_dir: place.to_str().unwrap().to_owned(),
            env: [].into(),
            port: 3000,
            health_path: None,
            chat: None,
            hooks: Hooks::default(),
            release: String::new(),
        };
        let stage = set.start_with("", &[(APP_PROCESS, serde_json::to_string(&process).unwrap())]);
        (place, stage.end().1)
    };
    let (place, lines) = run(AGENT_UID);
    assert!(lines.contains(&format!("[platform-front] {}", place.display())), "{lines:#?}");
    let (place, lines) = run(0);
    let refusal = format!("pwd cannot be started in {}", place.display());
    assert!(lines.iter().any(|line| line.contains(&refusal)), "{lines:#?}");
}

#[test]
fn the_end_of_the_program_ends_the_tenant() {
    let set = Stage::prepare();
    let app = app(&set, None);
    let mut process: AppProcess = serde_json::from_str(&app.1).unwrap();
    process.command = vec!["sh".to_owned(), "-c".to_owned(), "echo bye; exit 7".to_owned()];
    let stage = set.start_with("", &[(APP_PROCESS, serde_json::to_string(&process).unwrap())]);
    let (code, lines) = stage.end();
    assert_eq!(code, Some(1), "{lines:#?}");
    assert!(lines.contains(&"[platform-front] bye".to_owned()), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("platform-front exited with 7")), "{lines:#?}");
}

#[test]
fn the_program_receives_the_tenants_own_variables_before_those_of_its_release() {
    let set = Stage::prepare();
    let variables = serde_json::json!({
        "GREETING": { "value": "hallo", "secret": false },
        "TOKEN": { "value": "hunter2", "secret": true },
        "CIAL_TENANT_UUID": { "value": "forged", "secret": false },
    });
    write_secret(&set, APP_VARIABLES, &variables.to_string());
    let lines = output_of(set, "echo $GREETING $TOKEN $CIAL_TENANT_UUID; exit 7", &[]);
    assert!(lines.contains(&"[platform-front] hallo hunter2".to_owned()), "{lines:#?}");
}

#[test]
fn the_program_receives_the_url_of_its_database_unless_it_names_another() {
    for (own, expected) in [
        (None, "postgresql://t_acme@/t_acme"),
        (Some("postgresql://elsewhere"), "postgresql://elsewhere"),
    ] {
        let set = Stage::prepare();
        write_secret(&set, DATABASE_URL_FILE, "postgresql://t_acme@/t_acme");
        let env: Vec<_> = own.iter().map(|own| (DATABASE_URL, *own)).collect();
        let lines = output_of(set, "echo $DATABASE_URL; exit 7", &env);
        assert!(lines.contains(&format!("[platform-front] {expected}")), "{lines:#?}");
    }
}

fn write_secret(set: &Set, name: &str, content: &str) {
    let secrets = set.directory.join("secrets");
    fs::create_dir_all(&secrets).unwrap();
    fs::write(secrets.join(name), content).unwrap();
}

/// Runs a shell script as the program of an app until the tenant ends.
fn output_of(set: Set, script: &str, env: &[(&str, &str)]) -> Vec<String> {
    let app = app(&set, None);
    let mut process: AppProcess = serde_json::from_str(&app.1).unwrap();
    process.command = ["sh", "-c", script].map(str::to_owned).to_vec();
    process.env = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let stage = set.start_with("", &[(APP_PROCESS, serde_json::to_string(&process).unwrap())]);
    stage.end().1
}
