//! `cial` against the whole installation: with the profile that `local-up` writes, and with keys of one tenant.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use e2e::Checks;
use e2e::command_line::{cial, command, json, names_interpreter, run, succeed};
use testkit::installation::required;
use testkit::{Installation, TempDir};

/// An error without what differs between two requests.
fn without_request_id(text: &str) -> &str {
    text.split(", request id").next().unwrap_or_default()
}

#[tokio::test]
async fn the_command_line_works_with_the_profile_of_the_installation_and_with_a_tenants_key()
-> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let listed = succeed(&["tenant", "list", "-o", "json"], None);
    checks.require("the profile of the installation just works", listed)?;
    for slug in ["cli-acme", "cli-globex"] {
        let created = json(&["tenant", "create", slug]);
        let tenant = checks.require("a tenant is created and waited for", created)?;
        checks.equal("it runs", "running", tenant["state"].as_str().unwrap_or_default());
    }
    let names = succeed(&["tenant", "list", "-o", "name"], None)?;
    checks.contains("the list names the first tenant", "cli-acme", &names);
    checks.contains("the list names the second tenant", "cli-globex", &names);

    let script =
        "id -u; id -G; grep CapEff /proc/self/status; echo $HOME >&2; ls /var/lib/cial; exit 9";
    let run = cial(&["tenants", "exec", "cli-acme", "--", "sh", "-c", script], None)?;
    checks.contains("a command runs as the user of the app alone", "1001\n1001\n", &run.stdout);
    checks.contains("without capabilities", "0000000000000000", &run.stdout);
    checks.contains("with the app's environment", "/home/agent\n", &run.stderr);
    checks.contains("the core's files are closed to it", "Permission denied", &run.stderr);
    checks.equal("its exit code is the command's", "Some(9)", format!("{:?}", run.code));
    succeed(&["tenants", "stop", "cli-globex"], None)?;
    let stopped = cial(&["tenants", "exec", "cli-globex", "--", "true"], None)?;
    checks.contains("a stopped tenant runs no command", "tenant_stopped", &stopped.stderr);

    let create = ["key", "create", "ci", "--role", "write", "--tenant", "cli-acme"];
    let created = checks.require("a key of a tenant is created", json(&create))?;
    let key = created["key"].as_str().context("a created key is shown")?;
    let id = created["id"].as_str().context("a created key has an id")?;
    let listed = succeed(&["key", "list", "--tenant", "cli-acme", "-o", "json"], None)?;
    checks.holds(
        "a list never shows a key",
        id,
        &listed,
        listed.contains(id) && !listed.contains(key),
    );

    let server = ["--server", &installation.admin_url, "--api-key", "env:ONE_OFF_KEY"];
    let with_key = |args: &[&str]| cial(&[&server[..], args].concat(), Some(key));
    let own = with_key(&["tenants", "get", "-o", "name"])?;
    checks.equal("a tenant's key brings its tenant", "cli-acme\n", own.stdout);
    let log = with_key(&["tenants", "logs", "--tail", "5"])?;
    checks.contains("its log is readable", "all services are ready", &log.stdout);
    let other = with_key(&["tenants", "get", "--tenant", "cli-globex"])?;
    checks.equal("another tenant is a failure", "Some(1)", format!("{:?}", other.code));
    checks.contains("it is forbidden", "403 Forbidden", &other.stderr);
    let nobody = with_key(&["tenants", "get", "--tenant", "cli-nobody"])?;
    let same = without_request_id(&nobody.stderr)
        == without_request_id(&other.stderr).replace("cli-globex", "cli-nobody");
    checks.holds(
        "a tenant that does not exist looks the same",
        &other.stderr,
        &nobody.stderr,
        same,
    );
    let creation = with_key(&["tenant", "create", "cli-third"])?;
    checks.contains("creating a tenant is forbidden", "403 Forbidden", &creation.stderr);

    let tenants = with_key(&["--tenant", "cli-acme", "workflow", "list"])?;
    checks.equal("a one-off key, its server and its tenant work", "Some(0)", shown(tenants.code));
    let of_globex = succeed(&["--tenant", "cli-globex", "workflow", "list"], None);
    checks.require("the first key lists what a tenant has", of_globex)?;
    profiles_give_way_to_flags(&installation, &mut checks, key)?;

    succeed(&["key", "revoke", id, "--tenant", "cli-acme", "--yes"], None)?;
    let revoked = with_key(&["tenants", "get"])?;
    checks.equal("a revoked key is not authenticated", "Some(4)", format!("{:?}", revoked.code));
    for slug in ["cli-acme", "cli-globex"] {
        let deleted = succeed(&["tenant", "delete", slug, "--yes"], None);
        checks.require("a tenant is deleted and waited for", deleted)?;
    }
    let doctor = succeed(&["doctor"], None);
    checks.require("its doctor finds nothing wrong", doctor)?;
    let config = required("CIAL_E2E_CONFIG")?;
    let first_key = Path::new(&config).with_file_name("bootstrap-key");
    let mode = std::fs::metadata(&first_key)?.permissions().mode() & 0o777;
    checks.equal("nobody else reads the first key", "600", format!("{mode:o}"));
    let needs_libraries = names_interpreter(Path::new(&required("CIAL_E2E_CIAL")?))?;
    checks.holds("the program is static", "", "dynamic", !needs_libraries);
    checks.finish()
}

fn shown(code: Option<i32>) -> String {
    format!("{code:?}")
}

/// A configuration as a person writes it: `cli-acme` is the default, and `cli-globex` has a profile of its own.
fn profiles_give_way_to_flags(
    installation: &Installation,
    checks: &mut Checks,
    acme_key: &str,
) -> Result<()> {
    let create = ["key", "create", "ci", "--role", "read", "--tenant", "cli-globex", "-q"];
    let globex_key = succeed(&create, None)?;
    let home = TempDir::new("profiles")?;
    let (config, globex_file) = (home.path().join("config.toml"), home.path().join("globex.key"));
    std::fs::write(&globex_file, &globex_key)?;
    let (server, globex_file) = (&installation.admin_url, globex_file.display());
    let profiles = format!(
        "default_profile = \"acme-prod\"\n\
         [profiles.acme-prod]\nserver = \"{server}\"\napi_key = \"env:ACME_KEY\"\n\
         [profiles.globex-prod]\nserver = \"{server}\"\napi_key = \"file:{globex_file}\"\n"
    );
    let with = |text: &str, args: &[&str]| {
        std::fs::write(&config, text)?;
        run(command(args)?.env("CIAL_CONFIG", &config).env("ACME_KEY", acme_key))
    };
    let own = ["tenants", "get", "-o", "name"];
    let of = |flags: &[&str]| with(&profiles, &[flags, &own].concat());
    checks.equal("the default profile counts", "cli-acme\n", of(&[])?.stdout);
    let named = of(&["--profile", "globex-prod"])?.stdout;
    checks.equal("a named profile counts more, and brings its tenant", "cli-globex\n", named);
    let flags = ["--profile", "globex-prod", "--server", server, "--api-key", "env:ACME_KEY"];
    checks.equal("flags count most", "cli-acme\n", of(&flags)?.stdout);
    let none = with("", &own)?;
    checks.equal("without any of them it is a usage error", "Some(2)", shown(none.code));
    checks.contains("which says what is missing", "no server configured", &none.stderr);
    Ok(())
}
