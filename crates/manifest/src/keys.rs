//! The keys of a manifest, and the rules of their values.

use crate::{LOWEST_PORT, RESERVED_PORT};

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Program and arguments: at least one text, none with a NUL.
    Command,
    Port,
    /// A path of HTTP that begins with `/`.
    Path,
    /// A path of HTTP, or `model`.
    Chat,
    /// Paths of HTTP, each exact, or with a slash at the end for whatever begins so.
    PublicPaths,
    /// `true` or `false`.
    Flag,
    /// A number of seconds, from 1 to an hour.
    Seconds,
    /// Names with texts.
    Variables,
    /// Names of variables.
    Names,
}

#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// With the name of its table, like `health.path`.
    pub name: &'static str,
    pub kind: Kind,
    /// One sentence.
    pub about: &'static str,
    /// The value, or the behaviour, of a manifest without the key.
    pub default: &'static str,
    /// A value as TOML.
    pub example: &'static str,
}

pub const KEYS: &[Key] = &[
    Key {
        name: "command",
        kind: Kind::Command,
        about: "Program and arguments. The program runs as user 1001 and receives its port in the variable `PORT`.",
        default: "the image's entrypoint and command",
        example: r#"["/usr/bin/notes", "--data", "/home/agent/files"]"#,
    },
    Key {
        name: "port",
        kind: Kind::Port,
        about: "The port on which the program listens, from 1024; 8080 is taken by the tenant's own entry.",
        default: "the one port that the image exposes, otherwise 3000",
        example: "3000",
    },
    Key {
        name: "health.path",
        kind: Kind::Path,
        about: "A path that answers with a status below 400 once the program is ready.",
        default: "the program is ready as soon as it accepts connections on its port",
        example: r#""/healthz""#,
    },
    Key {
        name: "public_paths",
        kind: Kind::PublicPaths,
        about: "Paths that anonymous visitors reach where a tenant requires sign-in. With a slash at the end, whatever begins so; otherwise exactly this path.",
        default: "all paths require sign-in there",
        example: r#"["/webhooks/", "/robots.txt"]"#,
    },
    Key {
        name: "database",
        kind: Kind::Flag,
        about: "Whether the program receives the variable `DATABASE_URL`, with which it reaches the tenant's own schema on Postgres.",
        default: "the program has no database",
        example: "true",
    },
    Key {
        name: "chat",
        kind: Kind::Chat,
        about: "The path to which the core posts messages of the chat as JSON, and whose response is the reply; or `model`: the model of the installation replies.",
        default: "the app takes no messages",
        example: r#""/chat""#,
    },
    Key {
        name: "hooks.before_first_start",
        kind: Kind::Command,
        about: "A command that runs before the program, as its user, until it succeeded once in the tenant.",
        default: "nothing runs before the program",
        example: r#"["/usr/bin/notes", "init"]"#,
    },
    Key {
        name: "hooks.migrate",
        kind: Kind::Command,
        about: "A command that runs before the program, as its user, until it succeeded once since the tenant moved to this release. Where it fails, the start fails.",
        default: "nothing runs before the program",
        example: r#"["/usr/bin/notes", "migrate"]"#,
    },
    Key {
        name: "hooks.timeout",
        kind: Kind::Seconds,
        about: "The longest time of one hook in seconds, 1 to 3600. A tenant that is not ready after two minutes counts as failed in a rollout.",
        default: "60",
        example: "60",
    },
    Key {
        name: "env",
        kind: Kind::Variables,
        about: "Variables of the program. Never secrets: an inspection of the container shows them.",
        default: "the variables of the image",
        example: r#"{ GREETING = "hello" }"#,
    },
    Key {
        name: "secrets.required",
        kind: Kind::Names,
        about: "Names of variables that hold secrets. A tenant starts once it, or its app, has a value for each.",
        default: "a tenant starts without any secret",
        example: r#"["SECRET_KEY"]"#,
    },
    Key {
        name: "secrets.optional",
        kind: Kind::Names,
        about: "Names of variables that hold secrets, without which the program runs, too.",
        default: "none is declared; a tenant may have secrets that no manifest names",
        example: r#"["SMTP_PASSWORD"]"#,
    },
];

/// Variables that the platform sets, or that would change how a service starts.
const RESERVED_VARIABLES: &[&str] = &["HOME", "PORT", "TENANT_ID", "TMPDIR", "USER"];
const RESERVED_PREFIXES: &[&str] = &["CIAL_", "LISTEN_"];

/// Why a program must not listen on this port; `None` for a port that is fine.
pub fn port_fault(port: i64) -> Option<String> {
    if port == i64::from(RESERVED_PORT) {
        let why = format!("must not be {RESERVED_PORT}: the tenant's own entry listens there");
        return Some(why);
    }
    if (1..i64::from(LOWEST_PORT)).contains(&port) {
        let why = format!(
            "must not be a privileged port: let the program listen on {LOWEST_PORT} or above"
        );
        return Some(why);
    }
    let is_port = (i64::from(LOWEST_PORT)..=i64::from(u16::MAX)).contains(&port);
    (!is_port).then(|| format!("must be {LOWEST_PORT} to {}", u16::MAX))
}

/// Why a path must not be public; `None` for a path that is fine. A path with several spellings would match by one and be
/// served by another.
pub fn public_path_fault(path: &str) -> Option<&'static str> {
    let is_plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'%' | b'\\' | b';' | b'?' | b'#');
    if !path.starts_with('/') || !path.bytes().all(is_plain) {
        return Some("must be a path that begins with / and holds no blank and none of % ; ? # \\");
    }
    let inner = path.strip_suffix('/').unwrap_or(path);
    if inner.split('/').skip(1).any(|segment| matches!(segment, "" | "." | "..")) {
        return Some("must not hold empty segments, . or ..");
    }
    (inner == "/.cial" || inner.starts_with("/.cial/"))
        .then_some("must not be below /.cial: the platform's own")
}

/// Why a variable must not have this name; `None` for a name that is fine.
pub fn env_fault(name: &str) -> Option<String> {
    let is_reserved = RESERVED_VARIABLES.contains(&name)
        || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    if is_reserved {
        return Some("is a variable that the platform sets itself".to_owned());
    }
    let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    let is_name =
        name.starts_with(is_letter) && name.chars().all(|c| is_letter(c) || c.is_ascii_digit());
    (!is_name).then(|| "must be letters, digits and _, and not begin with a digit".to_owned())
}
