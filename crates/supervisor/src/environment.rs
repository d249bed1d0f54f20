//! Which variables a service sees: an allow-list per zone, so that what is not meant for the tenant's own app
//! cannot reach it by being forgotten.

use std::ffi::{OsStr, OsString};

use protocol::inside;

use crate::services::Zone;

pub type Variables = Vec<(OsString, OsString)>;

/// For everyone.
const COMMON: [&str; 4] = [inside::TENANT_ID, "TZ", "LANG", "LC_ALL"];
/// Ours: the core's to read, and nobody's to set for the platform.
const OURS: &str = "CIAL_";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a service of `zone` gets of the container's variables, and what it is told besides.
pub fn of(zone: Zone, container: &Variables, sockets: usize) -> Variables {
    let account = zone.account();
    let told = [
        ("PATH", PATH.to_owned()),
        ("HOME", account.home.to_owned()),
        ("USER", account.name.to_owned()),
        ("TMPDIR", account.scratch.to_owned()),
        ("LISTEN_FDS", sockets.to_string()),
    ];
    let app = named_by_the_container(container);
    let passes = |name: &OsStr| match name.to_str() {
        None => false,
        Some(name) if told.iter().any(|(taken, _)| *taken == name) => false,
        Some(name) if COMMON.contains(&name) => true,
        Some(name) => match zone {
            Zone::Core => name.starts_with(OURS),
            Zone::Platform => may_be_the_apps(name) && app.iter().any(|own| own == name),
        },
    };
    let passed = container.iter().filter(|(name, _)| passes(name)).cloned();
    passed.chain(told.iter().map(|(name, value)| (name.into(), value.into()))).collect()
}

/// The names that the maker of the container lists as the app's own.
fn named_by_the_container(container: &Variables) -> Vec<String> {
    let list = container.iter().find(|(name, _)| name.as_os_str() == inside::APP_ENV);
    let list = list.and_then(|(_, names)| names.to_str()).unwrap_or_default();
    list.split(',').map(|name| name.trim().to_owned()).collect()
}

fn may_be_the_apps(name: &str) -> bool {
    !name.starts_with(OURS) && !name.starts_with("LISTEN_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_zone_sees_its_own() {
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
            let lines = of(zone, &container, 2).into_iter();
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
