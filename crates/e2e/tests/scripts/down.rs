//! Takes an installation down, by xtask and by the script. Everything of the installation goes,
//! whatever the name of its compose project, and nothing of anybody else.

use std::process::{Command, Output};

use crate::checkout;

const INSTALL: &str = "cial.install";

/// Objects of an installation on the engine, made from an empty image and never started, because
/// only names and labels matter. Dropping the value removes all of them.
struct FakeInstallation {
    /// The name of the installation that is taken down.
    name: String,
    image: String,
}

impl FakeInstallation {
    fn new(purpose: &str) -> Self {
        let name = format!("it-{purpose}-{}", std::process::id());
        let nothing = std::env::temp_dir().join(format!("cial-{name}.tar"));
        // Two blocks of zeros are an archive without a file.
        std::fs::write(&nothing, [0; 1024]).unwrap();
        let image = format!("cial-{name}:dev");
        docker(&["import", nothing.to_str().unwrap(), &image]);
        std::fs::remove_file(nothing).unwrap();
        Self { name, image }
    }

    /// Makes a container, a network and a volume of a tenant of `install`, and returns their names.
    fn tenant(&self, install: &str) -> [String; 3] {
        let named = |kind: &str| format!("cial-{kind}-{install}");
        let [container, network, volume] = ["tenant", "net", "data"].map(named);
        let labels = self.labels(&["cial.managed=1", &format!("{INSTALL}={install}")]);
        let make = |args: &[&str], more: &[&str]| {
            docker(&[args, &labels.iter().map(String::as_str).collect::<Vec<_>>(), more].concat());
        };
        make(&["network", "create"], &[&network]);
        make(&["volume", "create"], &[&volume]);
        make(&["create", "--network", &network, "--name", &container], &[&self.image, "nothing"]);
        [container, network, volume]
    }

    /// Makes an orchestrator as compose does, with the volume of sockets, and returns the name of
    /// the container.
    fn orchestrator(&self, project: &str) -> String {
        let compose = |name: &str, value: &str| format!("com.docker.compose.{name}={value}");
        let (project_is, install) =
            (compose("project", project), format!("{INSTALL}={}", self.name));
        let sockets = format!("cial-{}-sockets", self.name);
        let mut volume = self.labels(&["cial.managed=1", &install, &project_is]);
        volume.push(sockets.clone());
        docker(&[&["volume", "create"], args(&volume).as_slice()].concat());
        let service = [
            "cial.managed=1",
            &project_is,
            &compose("service", "orchestrator"),
            &compose("oneoff", "False"),
            &compose("container-number", "1"),
            &compose("config-hash", "none"),
            &compose("version", "1.29.2"),
        ];
        let (labels, name) = (self.labels(&service), format!("{project}_orchestrator_1"));
        let mount = format!("{sockets}:/run/cial/sockets");
        let create = ["create", "--name", &name, "--volume", &mount];
        docker(&[create.as_slice(), &args(&labels), &[&self.image, "nothing"]].concat());
        name
    }

    /// Makes a container of somebody else that uses a volume, and returns the name of the container.
    fn user_of(&self, volume: &str) -> String {
        let (labels, name) = (self.labels(&[]), format!("user-{}", self.name));
        let mount = format!("{volume}:/data");
        let create = ["create", "--name", &name, "--volume", &mount];
        docker(&[create.as_slice(), &args(&labels), &[&self.image, "nothing"]].concat());
        name
    }

    fn labels(&self, labels: &[&str]) -> Vec<String> {
        let own = format!("cial.it={}", self.name);
        labels.iter().chain([&own.as_str()]).map(|label| format!("--label={label}")).collect()
    }

    /// Lists everything that was made here and still exists, in order.
    fn left(&self) -> Vec<String> {
        let own = format!("label=cial.it={}", self.name);
        let list =
            |what: &str, name: &str| docker(&[what, "ls", "--filter", &own, "--format", name]);
        let containers =
            docker(&["ps", "--all", "--filter", &own, "--format", "container {{.Names}}"]);
        let all = containers
            + &list("network", "network {{.Name}}")
            + &list("volume", "volume {{.Name}}");
        let mut all: Vec<_> = all.lines().map(str::to_owned).collect();
        all.sort();
        all
    }
}

impl Drop for FakeInstallation {
    fn drop(&mut self) {
        for thing in self.left() {
            let (kind, name) = thing.split_once(' ').unwrap();
            docker(&[kind, "rm", name]);
        }
        docker(&["rmi", &self.image]);
    }
}

fn args(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

fn docker(args: &[&str]) -> String {
    docker_command::run(args).unwrap()
}

/// A command that takes an installation down.
type Method = fn(&[&str]) -> Command;

const METHODS: [(&str, Method); 2] = [
    ("script", |args| {
        let mut sh = Command::new("sh");
        sh.arg(checkout("scripts/down")).args(args);
        sh
    }),
    ("xtask", |args| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["xtask", "local-down"]).args(args).current_dir(checkout(""));
        cargo
    }),
];

fn take_down(method: Method, name: &str, args: &[&str]) -> Output {
    let output = method(args).env("CIAL_INSTALL", name).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

#[test]
fn an_installation_goes_down_whatever_its_project_is_called() {
    for (purpose, method) in METHODS {
        let engine = FakeInstallation::new(purpose);
        let other = format!("{}-not", engine.name);
        let [container, network, volume] = engine.tenant(&other);
        let mut kept = [
            format!("container {container}"),
            format!("network {network}"),
            format!("volume {volume}"),
        ]
        .to_vec();
        let [_, _, data] = engine.tenant(&engine.name);
        engine.orchestrator(&format!("somehow-{}", engine.name));
        assert_eq!(engine.left().len(), 8);

        take_down(method, &engine.name, &[]);
        let mut left = engine.left();
        // The volume holds nothing that outlives a start, so it may go or stay.
        left.retain(|thing| !thing.ends_with("-sockets"));
        kept.push(format!("volume {data}"));
        kept.sort();
        assert_eq!(left, kept, "{purpose}");

        take_down(method, &engine.name, &["--purge", "--yes"]);
        kept.retain(|thing| !thing.ends_with(&data));
        assert_eq!(engine.left(), kept, "{purpose}");
    }
}

#[test]
fn a_purge_without_a_confirmation_removes_nothing() {
    for (purpose, method) in METHODS {
        let engine = FakeInstallation::new(&format!("ask-{purpose}"));
        engine.tenant(&engine.name);
        let before = engine.left();
        let output = method(&["--purge"])
            .env("CIAL_INSTALL", &engine.name)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{purpose}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains("add --yes"), "{purpose}: {message}");
        assert_eq!(engine.left(), before, "{purpose}");
    }
}

#[test]
fn an_object_that_cannot_be_removed_is_named_and_keeps_no_other() {
    for (purpose, method) in METHODS {
        let engine = FakeInstallation::new(&format!("used-{purpose}"));
        let [_, _, data] = engine.tenant(&engine.name);
        let user = engine.user_of(&data);
        let output =
            method(&["--purge", "--yes"]).env("CIAL_INSTALL", &engine.name).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{purpose}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains(&data), "{purpose}: {message}");
        assert_eq!(engine.left(), [format!("container {user}"), format!("volume {data}")]);
    }
}
