//! The manifest from outside: what is read, what is refused, and that the documents agree.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::Path;

use manifest::keys::KEYS;
use manifest::{Manifest, TEMPLATE, parse, reference, schema};

fn faults(text: &str) -> String {
    let faults = parse(text).unwrap_err();
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_key_is_read() {
    let text = r#"
        command = ["/bin/notes", "--verbose"]
        port = 5000
        public_paths = ["/webhooks/", "/robots.txt"]
        database = true
        chat = "/chat"
        [health]
        path = "/up?deep=1"
        [hooks]
        before_first_start = ["/bin/notes", "init"]
        migrate = ["/bin/notes", "migrate"]
        timeout = 90
        [env]
        GREETING = "hello"
        [secrets]
        required = ["SECRET_KEY"]
        optional = ["SMTP_PASSWORD"]
    "#;
    let read = Manifest {
        command: Some(vec!["/bin/notes".to_owned(), "--verbose".to_owned()]),
        port: Some(5000),
        health_path: Some("/up?deep=1".to_owned()),
        public_paths: vec!["/webhooks/".to_owned(), "/robots.txt".to_owned()],
        database: true,
        chat: Some("/chat".to_owned()),
        before_first_start: Some(vec!["/bin/notes".to_owned(), "init".to_owned()]),
        migrate: Some(vec!["/bin/notes".to_owned(), "migrate".to_owned()]),
        hook_timeout: Some(90),
        env: [("GREETING".to_owned(), "hello".to_owned())].into(),
        required_secrets: vec!["SECRET_KEY".to_owned()],
        optional_secrets: vec!["SMTP_PASSWORD".to_owned()],
    };
    assert_eq!(parse(text), Ok(read));
    assert_eq!(parse(""), Ok(Manifest::default()));
}

#[test]
fn all_faults_are_named_at_once_with_their_places() {
    let text = r#"comand = ["x"]
command = "notes --verbose"
port = 80
colour = "blue"
database = "yes"

[health]
pth = "/"
path = "healthz"

[hooks]
migrate = []
timeout = 0

[env]
"é" = "x"
CIAL_SLUG = "x"
PORT = "1"
COUNT = 3
"#;
    insta::assert_snapshot!(faults(text), @r#"
    line 1, column 1: comand is unknown; did you mean command?
    line 2, column 11: command must be a list of texts, like ["program", "flag"]
    line 3, column 8: port must not be a privileged port: let the program listen on 1024 or above
    line 4, column 1: colour is unknown; the keys are command, port, health.path, public_paths, database, chat, hooks.before_first_start, hooks.migrate, hooks.timeout, env, secrets.required, secrets.optional
    line 5, column 12: database must be true or false
    line 8, column 1: health.pth is unknown; did you mean health.path?
    line 9, column 8: health.path must be a path that begins with / and holds no blank
    line 12, column 11: hooks.migrate must begin with a program
    line 13, column 11: hooks.timeout must be a number of seconds from 1 to 3600
    line 16, column 1: env.é must be letters, digits and _, and not begin with a digit
    line 17, column 1: env.CIAL_SLUG is a variable that the platform sets itself
    line 18, column 1: env.PORT is a variable that the platform sets itself
    line 19, column 9: env.COUNT must be a text without NUL
    "#);
}

#[test]
fn the_chat_is_a_path_or_the_model() {
    for chat in ["/", "/chat?x=1", "model"] {
        let read = parse(&format!("chat = '{chat}'")).unwrap();
        assert_eq!(read.chat.as_deref(), Some(chat));
    }
    for chat in ["'Model'", "'models'", "''", "'chat'", "'/a b'", "true", "{ model = 'x' }"] {
        let faults = faults(&format!("chat = {chat}"));
        assert!(faults.contains(r#"chat must be "model", or a path"#), "{chat}: {faults}");
    }
}

#[test]
fn a_public_path_has_one_spelling_and_is_not_the_platforms() {
    for (path, expected) in [
        ("", "must be a path"),
        ("webhooks/", "must be a path"),
        ("/a b", "must be a path"),
        ("/a%2fb", "must be a path"),
        ("/a?x=1", "must be a path"),
        ("/a/../b", "must not hold empty segments"),
        ("//", "must not hold empty segments"),
        ("/a//b", "must not hold empty segments"),
        ("/.cial/", "must not be below /.cial"),
        ("/.cial/api", "must not be below /.cial"),
    ] {
        let faults = faults(&format!("public_paths = ['{path}']"));
        assert!(faults.contains(expected), "{path}: {faults}");
    }
    assert!(parse("public_paths = ['/', '/.well-known/', '/a.b-c_d~e']").is_ok());
    assert!(faults("public_paths = '/'").contains("must be a list of paths"));
    assert!(faults("public_paths = [1]").contains("must hold texts only"));
}

#[test]
fn ports_that_no_program_may_take_are_refused_with_the_reason() {
    for (port, expected) in [
        ("0", "must be 1024 to 65535"),
        ("443", "privileged"),
        ("8080", "own entry"),
        ("65536", "must be 1024 to 65535"),
        ("\"3000\"", "must be a number"),
    ] {
        let faults = faults(&format!("port = {port}"));
        assert!(faults.contains(expected), "{port}: {faults}");
    }
}

#[test]
fn a_command_is_a_program_with_texts() {
    for command in ["[]", "[\"\"]", "[1]", "[\"a\\u0000\"]", "{}"] {
        assert!(faults(&format!("command = {command}")).contains("line 1"), "{command}");
    }
}

#[test]
fn hooks_are_commands_with_a_bounded_time() {
    for (hooks, expected) in [
        ("hooks = 'notes migrate'", "line 1, column 9: hooks must be a table"),
        ("[hooks]\nmigrate = 'notes'", "line 2, column 11: hooks.migrate must be a list of texts"),
        (
            "[hooks]\nbefore_first_start = ['']",
            "line 2, column 22: hooks.before_first_start must begin",
        ),
        (
            "[hooks]\nmigrat = ['x']",
            "line 2, column 1: hooks.migrat is unknown; did you mean hooks.migrate?",
        ),
        (
            "hooks.timeout = 0",
            "line 1, column 17: hooks.timeout must be a number of seconds from 1 to 3600",
        ),
        ("hooks.timeout = 3601", "must be a number of seconds from 1 to 3600"),
        ("hooks.timeout = '60'", "must be a number of seconds from 1 to 3600"),
    ] {
        let faults = faults(hooks);
        assert!(faults.starts_with(expected) || faults.ends_with(expected), "{hooks}: {faults}");
    }
    assert_eq!(parse("hooks.timeout = 3600").unwrap().hook_timeout, Some(3600));
}

#[test]
fn secrets_are_names_that_occur_once_and_have_no_value_here() {
    for (secrets, expected) in [
        ("secrets = ['A']", "line 1, column 11: secrets must be a table"),
        (
            "secrets.required = 'A'",
            r#"line 1, column 20: secrets.required must be a list of names, like ["SECRET_KEY"]"#,
        ),
        ("secrets.optional = [1]", "line 1, column 21: secrets.optional must hold texts only"),
        ("secrets.required = ['A', 'A']", "line 1, column 26: secrets.required A is named twice"),
        (
            "secrets = { required = ['A'], optional = ['A'] }",
            "line 1, column 43: secrets.optional A is named twice",
        ),
        (
            "env.A = 'x'\nsecrets.required = ['A']",
            "line 2, column 21: secrets.required A is set by env, which everybody may read",
        ),
        (
            "secrets.required = ['PORT']",
            "line 1, column 21: secrets.required PORT is a variable that the platform sets itself",
        ),
        (
            "secrets.required = ['A-B']",
            "line 1, column 21: secrets.required A-B must be letters, digits and _, and not begin with a digit",
        ),
    ] {
        assert_eq!(faults(secrets), expected, "{secrets}");
    }
    let names: Vec<_> = (0..=manifest::MAX_SECRETS).map(|n| format!("'S{n}'")).collect();
    let too_many = faults(&format!("secrets.optional = [{}]", names.join(",")));
    assert!(too_many.contains("must name at most 64 secrets"), "{too_many}");
    let most = format!("secrets.optional = [{}]", names[1..].join(","));
    assert_eq!(parse(&most).unwrap().optional_secrets.len(), manifest::MAX_SECRETS);
}

#[test]
fn a_text_that_is_no_toml_is_one_fault_with_its_place() {
    let faults = parse("port = 3000\nport = 4000\n").unwrap_err();
    assert_eq!((faults.len(), faults[0].line), (1, 2), "{faults:?}");
    let long = format!("# {}", "x".repeat(manifest::MAX_BYTES));
    assert_eq!(parse(&long).unwrap_err().len(), 1);
}

/// The examples of the table are values that the reader accepts, and the template shows each.
#[test]
fn every_key_has_a_valid_example_in_the_template() {
    assert_eq!(parse(TEMPLATE), Ok(Manifest::default()));
    for key in KEYS {
        let line = format!("{} = {}\n", key.name, key.example);
        assert!(parse(&line).is_ok_and(|read| read != Manifest::default()), "{line}");
    }
    let uncommented: Vec<_> = TEMPLATE
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| line.contains(" = "))
        .collect();
    let read = parse(&uncommented.join("\n")).unwrap();
    let whole = KEYS.iter().map(|key| format!("{} = {}\n", key.name, key.example));
    assert_eq!(read, parse(&whole.collect::<String>()).unwrap());
}

#[test]
fn the_reference_and_the_schema_are_made_from_the_keys() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    for (name, expected) in
        [("manifest.md", reference::markdown()), ("cial.schema.json", schema::text())]
    {
        let path = folder.join(name);
        if option_env!("UPDATE_REFERENCE").is_some() {
            std::fs::write(&path, &expected).unwrap();
        }
        assert!(
            std::fs::read_to_string(&path).is_ok_and(|found| found == expected),
            "{name} is outdated: set UPDATE_REFERENCE=1 and run again"
        );
    }
}
