//! `docker/make-secrets.sh` makes each secret once, overwrites nothing, and locks no owner out of a
//! database.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use testkit::TempDir;

use crate::checkout;

const SERVICES: [&str; 4] = ["app-api", "orchestrator", "router", "postgres"];

/// New, empty folders for each service and for the database.
struct Volumes(TempDir);

impl Volumes {
    fn new(name: &str) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "make-secrets hands files to their owners: run the tests as root"
        );
        let root = TempDir::new(&format!("secrets-{name}")).unwrap();
        for service in SERVICES {
            std::fs::create_dir_all(root.path().join("secrets").join(service)).unwrap();
        }
        std::fs::create_dir(root.path().join("database")).unwrap();
        Self(root)
    }

    fn secret(&self, service: &str, name: &str) -> PathBuf {
        self.0.path().join("secrets").join(service).join(name)
    }

    fn read(&self, service: &str, name: &str) -> String {
        std::fs::read_to_string(self.secret(service, name)).unwrap()
    }

    /// Lists files with their content, in order of their paths.
    fn all(&self) -> Vec<(PathBuf, String)> {
        let folders = SERVICES.map(|service| self.0.path().join("secrets").join(service));
        let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        files
            .into_iter()
            .map(|file| (file.clone(), std::fs::read_to_string(file).unwrap()))
            .collect()
    }

    fn initialise_database(&self) {
        std::fs::write(self.0.path().join("database/PG_VERSION"), "17\n").unwrap();
    }

    fn make(&self) -> Output {
        let mut sh = Command::new("sh");
        sh.arg(checkout("docker/make-secrets.sh"))
            .arg(self.0.path().join("secrets"))
            .arg(self.0.path().join("database"));
        sh.output().unwrap()
    }

    /// Keeps `content`, which an operator brings, for the service.
    fn keep(&self, service: &str, name: &str, content: &str) -> Output {
        let input = self.0.path().join("input");
        std::fs::write(&input, content).unwrap();
        let mut sh = Command::new("sh");
        sh.arg(checkout("docker/make-secrets.sh"))
            .arg("keep")
            .arg(self.0.path().join("secrets"))
            .args([service, name])
            .stdin(Stdio::from(std::fs::File::open(input).unwrap()));
        sh.output().unwrap()
    }

    fn succeed(&self) -> String {
        let output = self.make();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Lists each generated secret with the services that have it, according to
/// docs/reference/settings.md. The operator provides the optional ones, and a rotation makes keys.
fn documented() -> Vec<(&'static str, Vec<&'static str>)> {
    let text = include_str!("../../../../docs/reference/settings.md");
    let (_, table) = text.split_once("| secret | who has it |").unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let rows = rows.filter(|line| !line.contains("(optional)") && !line.contains("(made by"));
    let row = |line: &'static str| {
        let (name, services) = line.trim_matches(['|', ' ']).split_once('|').unwrap();
        (name.trim_matches([' ', '`']), services.split(',').map(str::trim).collect())
    };
    rows.map(row).collect()
}

#[test]
fn each_service_gets_its_secrets_and_nothing_else() {
    let volumes = Volumes::new("each");
    volumes.succeed();
    let names: Vec<_> = volumes.all().into_iter().map(|(file, _)| file).collect();
    let mut expected: Vec<_> = documented()
        .into_iter()
        .flat_map(|(name, services)| services.into_iter().map(move |service| (service, name)))
        .collect();
    expected.sort_by_key(|(service, name)| volumes.secret(service, name));
    let expected_names: Vec<_> =
        expected.iter().map(|(service, name)| volumes.secret(service, name)).collect();
    assert_eq!(names, expected_names);
    for (service, name) in expected {
        let metadata = volumes.secret(service, name).metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o400, "{service}/{name}");
        let owner = if service == "postgres" { 0 } else { 1000 };
        assert_eq!((metadata.uid(), metadata.gid()), (owner, owner), "{service}/{name}");
        let text = volumes.read(service, name);
        let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        assert!(text.len() == 43 && is_plain, "{service}/{name} is {text:?}");
    }
    for (name, services) in documented() {
        let texts: Vec<_> = services.iter().map(|service| volumes.read(service, name)).collect();
        assert!(texts.iter().all(|text| *text == texts[0]), "{name} differs between {services:?}");
    }
    let mut values: Vec<_> = volumes.all().into_iter().map(|(_, text)| text).collect();
    values.sort();
    values.dedup();
    assert_eq!(values.len(), documented().len(), "two secrets are equal");
}

#[test]
fn what_exists_is_never_overwritten() {
    let volumes = Volumes::new("again");
    volumes.succeed();
    volumes.initialise_database();
    let before = volumes.all();
    assert_eq!(volumes.succeed(), "", "a second run makes nothing");
    assert_eq!(volumes.all(), before);
}

#[test]
fn a_secret_that_one_service_lacks_is_copied_to_it() {
    let volumes = Volumes::new("copy");
    volumes.succeed();
    volumes.initialise_database();
    let before = volumes.all();
    // The only remaining copy is in turn the first and the second of the table.
    for (service, name) in
        [("app-api", "database-password"), ("router", "route-secret"), ("app-api", "sso-secret")]
    {
        std::fs::remove_file(volumes.secret(service, name)).unwrap();
        assert_eq!(volumes.succeed(), format!("made {name} for {service}\n"));
        assert_eq!(volumes.all(), before, "{service}/{name}");
    }
}

#[test]
fn a_secret_that_nobody_has_is_made_beside_the_others() {
    let volumes = Volumes::new("add");
    volumes.succeed();
    volumes.initialise_database();
    let before = volumes.all();
    for service in ["app-api", "router"] {
        std::fs::remove_file(volumes.secret(service, "routes-token")).unwrap();
    }
    volumes.succeed();
    let changed: Vec<_> = volumes.all().into_iter().filter(|file| !before.contains(file)).collect();
    let expected = ["app-api", "router"].map(|service| volumes.secret(service, "routes-token"));
    assert_eq!(changed.iter().map(|(file, _)| file.clone()).collect::<Vec<_>>(), expected);
    assert_eq!(changed[0].1, changed[1].1);
}

#[test]
fn half_a_secret_of_an_interrupted_run_is_made_whole() {
    let volumes = Volumes::new("half");
    std::fs::write(volumes.secret("app-api", ".new"), "half").unwrap();
    std::fs::write(volumes.secret("app-api", "sso-secret"), "").unwrap();
    volumes.succeed();
    assert_eq!(volumes.read("app-api", "sso-secret").len(), 43);
    assert_eq!(volumes.read("app-api", "sso-secret"), volumes.read("orchestrator", "sso-secret"));
    assert!(!volumes.secret("app-api", ".new").exists());
}

#[test]
fn a_database_without_its_secrets_is_refused_with_the_two_ways_on() {
    let volumes = Volumes::new("refused");
    volumes.initialise_database();
    let output = volumes.make();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    for part in ["secrets that belong to it are gone", "-secrets", "cargo xtask local-down --purge"]
    {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
    assert_eq!(volumes.all(), [], "a refusal makes nothing");
}

#[test]
fn what_an_operator_brings_is_kept_in_its_form_alone() {
    let volumes = Volumes::new("keep");
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (service, name, content) in [
        ("app-api", "sso-private-key", pem),
        ("orchestrator", "sso-public-key", pem),
        ("app-api", "smtp-ca", pem),
        ("app-api", "smtp-password", "correct horse\n"),
    ] {
        let output = volumes.keep(service, name, content);
        assert!(output.status.success(), "{service}/{name}: {output:?}");
        assert_eq!(volumes.read(service, name), content);
        let metadata = volumes.secret(service, name).metadata().unwrap();
        assert_eq!((metadata.permissions().mode() & 0o777, metadata.uid()), (0o400, 1000));
    }
    let before = volumes.all();
    for (service, name, content, error) in [
        ("app-api", "smtp-ca", "no certificate\n", "in PEM"),
        ("app-api", "sso-private-key", "", "in PEM"),
        ("app-api", "smtp-password", "", "is empty"),
        ("app-api", "smtp-password", " \n", "is empty"),
        ("router", "smtp-password", "correct horse\n", "no secret that an operator brings"),
        ("app-api", "sso-secret", "correct horse\n", "app-api/smtp-ca"),
    ] {
        let output = volumes.keep(service, name, content);
        assert_eq!(output.status.code(), Some(1), "{service}/{name}: {output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(error), "{error:?} is not in {stderr}");
        assert_eq!(volumes.all(), before, "a refusal changes nothing");
    }
}
