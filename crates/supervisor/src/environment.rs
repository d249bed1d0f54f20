//! The environment of a service. Each zone has an allow-list, so that an unexpected variable does
//! not reach the tenant's own app.

use std::ffi::{OsStr, OsString};

use protocol::inside;
use protocol::process::AppProcess;

use crate::services::Zone;

pub type Variables = Vec<(OsString, OsString)>;

/// A variable of the container that PID 1 knows by its name.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    pub name: &'static str,
    /// The services that receive the variable.
    pub zones: &'static [Zone],
    /// The meaning, for the reference.
    pub purpose: &'static str,
}

const EVERY_ZONE: &[Zone] = &[Zone::Core, Zone::Platform];

/// The variables that PID 1 knows by their names. Of the others the core receives those with the prefix of the platform,
/// and the app those that [`inside::APP_ENV`] names.
pub const SETTINGS: &[Variable] = &[
    Variable { name: inside::TENANT_ID, zones: EVERY_ZONE, purpose: "the tenant's name on pages" },
    Variable { name: "TZ", zones: EVERY_ZONE, purpose: "the time zone" },
    Variable { name: "LANG", zones: EVERY_ZONE, purpose: "the locale" },
    Variable { name: "LC_ALL", zones: EVERY_ZONE, purpose: "the locale, before `LANG`" },
    Variable {
        name: inside::APP_ENV,
        zones: &[Zone::Core],
        purpose: "the names, with commas between them, of the variables that the tenant's own app receives",
    },
    Variable {
        name: inside::APP_PROCESS,
        zones: &[Zone::Core],
        purpose: "the program of an app as JSON, instead of the built-in app",
    },
    Variable {
        name: inside::APP_PORT,
        zones: &[Zone::Core],
        purpose: "the port of 127.0.0.1 on which the program of an app listens, for the edge",
    },
    Variable {
        name: inside::PUBLIC_PATHS,
        zones: &[Zone::Core],
        purpose: "the paths of an app that anonymous visitors reach where the tenant requires sign-in, as JSON, for the edge",
    },
];
/// The prefix of the platform's own variables: the core reads them, and the app never receives one.
const RESERVED_PREFIX: &str = "CIAL_";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Builds the environment of a service of `zone`: the allowed variables of the container, and the
/// fixed ones. `inherited_fds` is the number of descriptors that the service inherits.
pub fn build(zone: Zone, container: &Variables, inherited_fds: usize) -> Variables {
    let account = zone.account();
    let fixed = [
        ("PATH", PATH.to_owned()),
        ("HOME", account.home.to_owned()),
        ("USER", account.name.to_owned()),
        ("TMPDIR", account.temp_dir.to_owned()),
        ("LISTEN_FDS", inherited_fds.to_string()),
    ];
    let app_names = read_app_names(container);
    let passes = |name: &OsStr| match name.to_str() {
        None => false,
        Some(name) if fixed.iter().any(|(taken, _)| *taken == name) => false,
        Some(name) if is_known_to_reach(name, zone) => true,
        Some(name) => match zone {
            Zone::Core => name.starts_with(RESERVED_PREFIX),
            Zone::Platform => is_allowed_for_app(name) && app_names.iter().any(|own| own == name),
        },
    };
    let passed = container.iter().filter(|(name, _)| passes(name)).cloned();
    passed.chain(fixed.iter().map(|(name, value)| (name.into(), value.into()))).collect()
}

fn is_known_to_reach(name: &str, zone: Zone) -> bool {
    SETTINGS.iter().any(|variable| variable.name == name && variable.zones.contains(&zone))
}

/// Builds the environment of an app's program: the variables of its image and release, and the fixed
/// ones. The `PATH` of the image counts, because its programs may be anywhere.
pub fn build_for_app(app: &AppProcess, container: &Variables) -> Variables {
    let account = Zone::Platform.account();
    let fixed = [
        ("HOME", account.home.to_owned()),
        ("USER", account.name.to_owned()),
        ("TMPDIR", account.temp_dir.to_owned()),
        ("PORT", app.port.to_string()),
    ];
    let passed = container.iter().filter(|(name, _)| {
        name.to_str().is_some_and(|name| {
            is_known_to_reach(name, Zone::Platform) && !app.env.contains_key(name)
        })
    });
    let own = app.env.iter().filter(|(name, _)| {
        !name.starts_with(RESERVED_PREFIX) && !fixed.iter().any(|(taken, _)| taken == name)
    });
    let path = (!app.env.contains_key("PATH")).then(|| ("PATH".into(), PATH.into()));
    passed
        .cloned()
        .chain(path)
        .chain(own.map(|(name, value)| (name.into(), value.into())))
        .chain(fixed.iter().map(|(name, value)| (name.into(), value.into())))
        .collect()
}

/// The names that the container lists as variables of the app.
fn read_app_names(container: &Variables) -> Vec<String> {
    let list = container.iter().find(|(name, _)| name.as_os_str() == inside::APP_ENV);
    let list = list.and_then(|(_, names)| names.to_str()).unwrap_or_default();
    list.split(',').map(|name| name.trim().to_owned()).collect()
}

fn is_allowed_for_app(name: &str) -> bool {
    !name.starts_with(RESERVED_PREFIX) && !name.starts_with("LISTEN_")
}

#[cfg(test)]
mod tests {
    use protocol::process::Hooks;

    use super::*;

    #[test]
    fn the_reference_has_the_table() {
        let rows = SETTINGS.iter().map(|Variable { name, zones, purpose }| {
            let reaches = if *zones == EVERY_ZONE { "every service" } else { "the core" };
            format!("\n| `{name}` | {reaches} | {purpose} |")
        });
        let table =
            format!("| variable | reaches | means |\n|---|---|---|{}", rows.collect::<String>());
        testkit::reference::check_table("docs/reference/settings.md", "### supervisor", &table);
    }

    #[test]
    fn a_program_of_an_app_receives_the_variables_of_its_image_and_its_port() {
        let app = AppProcess {
            command: vec!["/bin/notes".to_owned()],
            working_dir: "/".to_owned(),
            env: [
                ("PATH", "/opt/venv/bin"),
                ("GREETING", "hello"),
                ("HOME", "/root"),
                ("CIAL_X", "y"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
            port: 5000,
            health_path: None,
            chat: None,
            hooks: Hooks::default(),
            release: String::new(),
        };
        let container: Variables =
            [("TENANT_ID", "acme"), ("CIAL_TENANT_UUID", "0192"), ("LD_PRELOAD", "/evil.so")]
                .map(|(name, value)| (name.into(), value.into()))
                .to_vec();
        let lines = build_for_app(&app, &container).into_iter();
        let lines: Vec<_> =
            lines.map(|(n, v)| format!("{}={}", n.display(), v.display())).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        TENANT_ID=acme
        GREETING=hello
        PATH=/opt/venv/bin
        HOME=/home/agent
        USER=agent
        TMPDIR=/tmp
        PORT=5000
        ");
    }

    #[test]
    fn each_zone_receives_its_own_variables() {
        let container: Variables = [
            ("TENANT_ID", "acme"),
            ("TZ", "Europe/London"),
            ("CIAL_TENANT_UUID", "0192f0c1-2345-7abc-8def-0123456789ab"),
            ("CIAL_APP_ENV", "GREETING, PATH,LISTEN_PID,CIAL_TENANT_UUID"),
            ("GREETING", "hello"),
            ("PATH", "/evil"),
            ("LISTEN_PID", "1"),
            ("LISTEN_FDS", "9"),
            ("LD_PRELOAD", "/evil.so"),
            ("HOSTNAME", "0123456789ab"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .to_vec();
        let show = |zone| {
            let lines = build(zone, &container, 2).into_iter();
            let lines = lines.map(|(n, v)| format!("{}={}", n.display(), v.display()));
            lines.collect::<Vec<_>>().join("\n")
        };
        insta::assert_snapshot!(show(Zone::Core), @r"
        TENANT_ID=acme
        TZ=Europe/London
        CIAL_TENANT_UUID=0192f0c1-2345-7abc-8def-0123456789ab
        CIAL_APP_ENV=GREETING, PATH,LISTEN_PID,CIAL_TENANT_UUID
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
        HOME=/var/lib/cial
        USER=cial
        TMPDIR=/run/cial/core
        LISTEN_FDS=2
        ");
        insta::assert_snapshot!(show(Zone::Platform), @r"
        TENANT_ID=acme
        TZ=Europe/London
        GREETING=hello
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
        HOME=/home/agent
        USER=agent
        TMPDIR=/tmp
        LISTEN_FDS=2
        ");
    }
}
