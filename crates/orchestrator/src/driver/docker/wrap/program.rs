//! The program of an image: read from the image's configuration, merged with a release. Pure.

use std::collections::BTreeMap;

use bollard::models::ImageConfig;
use protocol::inside;
use protocol::process::{AppProcess, AppSpec, Hooks};
use serde::{Deserialize, Serialize};

use crate::driver::{DriverError, DriverErrorCode};

/// Ports below are refused: on many machines a program without privileges cannot listen there.
const LOWEST_PORT: u16 = 1024;
/// Folders that the platform or the kernel mounts or owns inside a tenant.
const OWN_FOLDERS: [&str; 9] = [
    "/dev",
    "/home/agent",
    "/opt/cial",
    "/opt/cial-core",
    "/proc",
    "/run/cial",
    "/sys",
    "/tmp",
    inside::DATA_DIR,
];

/// The program of an image, by the image's configuration. A label of the wrapped image holds this value as JSON, because
/// the wrapped image has a configuration of the platform's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageProgram {
    /// Entrypoint and command together; may be empty.
    command: Vec<String>,
    working_dir: String,
    env: BTreeMap<String, String>,
    /// TCP ports that the image exposes.
    ports: Vec<u16>,
    /// Folders that the image declares as volumes.
    volumes: Vec<String>,
}

impl ImageProgram {
    /// Reads the configuration of an image.
    ///
    /// # Errors
    /// A variable or a volume of the image would reach into the platform's own.
    pub(super) fn read(config: &ImageConfig) -> Result<Self, DriverError> {
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let working_dir = config.working_dir.clone().filter(|dir| !dir.is_empty());
        let mut program = Self {
            command: [list(&config.entrypoint), list(&config.cmd)].concat(),
            working_dir: working_dir.unwrap_or_else(|| "/".to_owned()),
            env: list(&config.env).iter().filter_map(|line| split_variable(line)).collect(),
            ports: list(&config.exposed_ports).iter().filter_map(|port| tcp_port(port)).collect(),
            // The engine cleans its own paths, and would take `/data/` for another folder than `/data`.
            volumes: list(&config.volumes)
                .iter()
                .map(|volume| if volume == "/" { volume } else { volume.trim_end_matches('/') })
                .map(str::to_owned)
                .collect(),
        };
        // The engine shows sets, in any order.
        program.ports.sort_unstable();
        program.volumes.sort_unstable();
        program.volumes.dedup();
        if let Some(name) = program.env.keys().find(|name| is_reserved(name)) {
            let reason =
                format!("The image sets the variable {name}, which is the platform's own.");
            return Err(refused(reason, "Build the image without it."));
        }
        let mut labels = config.labels.iter().flatten();
        if let Some((label, _)) = labels.find(|(label, _)| label.starts_with("cial.")) {
            let reason = format!("The image has the label {label}, which is the platform's own.");
            return Err(refused(reason, "Build the image without it."));
        }
        if let Some(volume) = program.volumes.iter().find(|volume| touches_own_folder(volume)) {
            let reason = format!(
                "The image declares the volume {volume}, where the platform keeps its own files."
            );
            return Err(refused(reason, "Build the image without that volume."));
        }
        Ok(program)
    }

    /// Folders that the program may write to, besides those of every tenant.
    pub(super) fn volumes(&self) -> &[String] {
        &self.volumes
    }

    /// Merges the image's program, whose id is `source_id`, with a release and the tenant's variables.
    ///
    /// # Errors
    /// There is no command, or no port on which the program may listen.
    pub(super) fn merge(
        &self,
        source_id: &str,
        app: &AppSpec,
        env: &BTreeMap<String, String>,
    ) -> Result<AppProcess, DriverError> {
        let command = app.command.clone().unwrap_or_else(|| self.command.clone());
        if command.first().is_none_or(String::is_empty) {
            let reason = "The image names no command.";
            return Err(refused(reason, "Set `command` in the manifest."));
        }
        let own = env.iter().map(|(name, value)| (name.clone(), value.clone()));
        Ok(AppProcess {
            command,
            working_dir: self.working_dir.clone(),
            env: self.env.clone().into_iter().chain(own).collect(),
            port: self.choose_port(app.port)?,
            health_path: app.health_path.clone(),
            chat: app.chat.clone(),
            release: release(source_id, &app.hooks),
            hooks: app.hooks.clone(),
        })
    }

    fn choose_port(&self, wanted: Option<u16>) -> Result<u16, DriverError> {
        let port = match (wanted, self.ports.as_slice()) {
            (Some(port), _) => port,
            (None, [port]) => *port,
            (None, []) => inside::DEFAULT_APP_PORT,
            (None, several) => {
                let names: Vec<_> = several.iter().map(u16::to_string).collect();
                let reason = format!("The image exposes several ports: {}.", names.join(", "));
                return Err(refused(reason, "Set `port` in the manifest."));
            }
        };
        let remedy = "Set `port` in the manifest, and let the program listen on the variable PORT.";
        if port == inside::INGRESS_PORT {
            let reason =
                format!("The program wants port {port}, where the tenant's own entry listens.");
            return Err(refused(reason, remedy));
        }
        if port < LOWEST_PORT {
            let reason = format!(
                "The program wants the privileged port {port}, and it runs without privileges."
            );
            return Err(refused(reason, remedy));
        }
        Ok(port)
    }
}

/// Two releases are the same to a `migrate` when their image and the command are.
fn release(source_id: &str, hooks: &Hooks) -> String {
    if hooks.is_empty() {
        return String::new();
    }
    let migrate = serde_json::to_string(&hooks.migrate).unwrap_or_default();
    format!("{source_id} {migrate}")
}

pub(super) fn refused(reason: impl AsRef<str>, remedy: &str) -> DriverError {
    DriverError::new(DriverErrorCode::ImageInvalid, format!("{} {remedy}", reason.as_ref()))
}

fn split_variable(line: &str) -> Option<(String, String)> {
    line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// PID 1 receives the image's variables, too, and hands those with our prefix to the trusted half.
fn is_reserved(name: &str) -> bool {
    name == inside::TENANT_ID || name.starts_with("CIAL_") || name.starts_with("LISTEN_")
}

/// Reads `3000/tcp`, and `3000`; no other protocol.
fn tcp_port(text: &str) -> Option<u16> {
    text.strip_suffix("/tcp").unwrap_or(text).parse().ok()
}

/// Whether one of the folders is inside the other. A path with `..` may be anywhere.
fn touches_own_folder(volume: &str) -> bool {
    let contains = |outer: &str, inner: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    volume == "/"
        || volume.split('/').any(|part| part == ".." || part == ".")
        || volume.contains("//")
        || !volume.starts_with('/')
        || OWN_FOLDERS.iter().any(|own| contains(own, volume) || contains(volume, own))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The engine shows sets as objects.
    fn config(mut json: serde_json::Value) -> ImageConfig {
        for set in ["ExposedPorts", "Volumes"] {
            if let Some(names) = json.get(set).and_then(|names| names.as_array()).cloned() {
                let names = names.iter().filter_map(|name| name.as_str());
                json[set] = names.map(|name| (name.to_owned(), serde_json::json!({}))).collect();
            }
        }
        serde_json::from_value(json).unwrap()
    }

    fn merged(image: serde_json::Value, app: &AppSpec) -> Result<AppProcess, String> {
        let program = ImageProgram::read(&config(image)).map_err(|error| error.detail)?;
        let env = [("GREETING".to_owned(), "tenant".to_owned())].into();
        program.merge("sha256:1", app, &env).map_err(|error| error.detail)
    }

    fn args(args: &[&str]) -> Vec<String> {
        args.iter().map(|arg| (*arg).to_owned()).collect()
    }

    #[test]
    fn an_image_needs_no_manifest() {
        let image = serde_json::json!({
            "Entrypoint": ["/bin/notes"], "Cmd": ["--data", "/data"], "WorkingDir": "/srv",
            "Env": ["PATH=/opt/bin", "GREETING=image", "EMPTY="], "ExposedPorts": ["5000/tcp", "53/udp"],
        });
        let expected = AppProcess {
            command: args(&["/bin/notes", "--data", "/data"]),
            working_dir: "/srv".to_owned(),
            env: [("PATH", "/opt/bin"), ("GREETING", "tenant"), ("EMPTY", "")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            port: 5000,
            health_path: None,
            chat: None,
            hooks: Hooks::default(),
            release: String::new(),
        };
        assert_eq!(merged(image.clone(), &AppSpec::default()), Ok(expected.clone()));
        let app = AppSpec {
            command: Some(args(&["/bin/other"])),
            port: Some(6000),
            health_path: Some("/up".to_owned()),
            chat: Some("/chat".to_owned()),
            ..AppSpec::default()
        };
        let expected = AppProcess {
            command: args(&["/bin/other"]),
            port: 6000,
            health_path: Some("/up".to_owned()),
            chat: Some("/chat".to_owned()),
            ..expected
        };
        assert_eq!(merged(image.clone(), &app), Ok(expected));
        let hooks = Hooks { migrate: Some(args(&["up"])), ..Hooks::default() };
        let merged = merged(image, &AppSpec { hooks: hooks.clone(), ..app }).unwrap();
        assert_eq!((merged.hooks, merged.release.as_str()), (hooks, "sha256:1 [\"up\"]"));
    }

    #[test]
    fn a_bare_image_with_a_command_listens_on_the_default_port() {
        let made = merged(serde_json::json!({ "Cmd": ["/app"] }), &AppSpec::default()).unwrap();
        assert_eq!((made.port, made.working_dir.as_str()), (inside::DEFAULT_APP_PORT, "/"));
    }

    #[test]
    fn each_refusal_names_the_reason_and_the_fix() {
        let cases = [
            serde_json::json!({}),
            serde_json::json!({ "Cmd": [""] }),
            serde_json::json!({ "Cmd": ["/app"], "ExposedPorts": ["80/tcp"] }),
            serde_json::json!({ "Cmd": ["/app"], "ExposedPorts": ["8080/tcp"] }),
            serde_json::json!({ "Cmd": ["/app"], "ExposedPorts": ["5000/tcp", "5001/tcp"] }),
            serde_json::json!({ "Cmd": ["/app"], "Env": ["CIAL_TENANT_UUID=0192"] }),
            serde_json::json!({ "Cmd": ["/app"], "Labels": { "cial.managed": "1" } }),
            serde_json::json!({ "Cmd": ["/app"], "Volumes": ["/run/cial/core"] }),
            serde_json::json!({ "Cmd": ["/app"], "Volumes": ["/run"] }),
            serde_json::json!({ "Cmd": ["/app"], "Volumes": ["/srv/../run"] }),
            serde_json::json!({ "Cmd": ["/app"], "Volumes": ["/"] }),
            serde_json::json!({ "Cmd": ["/app"], "Volumes": ["/dev/shm/"] }),
        ];
        let lines = cases.map(|image| merged(image, &AppSpec::default()).unwrap_err());
        insta::assert_snapshot!(lines.join("\n"), @r"
        The image names no command. Set `command` in the manifest.
        The image names no command. Set `command` in the manifest.
        The program wants the privileged port 80, and it runs without privileges. Set `port` in the manifest, and let the program listen on the variable PORT.
        The program wants port 8080, where the tenant's own entry listens. Set `port` in the manifest, and let the program listen on the variable PORT.
        The image exposes several ports: 5000, 5001. Set `port` in the manifest.
        The image sets the variable CIAL_TENANT_UUID, which is the platform's own. Build the image without it.
        The image has the label cial.managed, which is the platform's own. Build the image without it.
        The image declares the volume /run/cial/core, where the platform keeps its own files. Build the image without that volume.
        The image declares the volume /run, where the platform keeps its own files. Build the image without that volume.
        The image declares the volume /srv/../run, where the platform keeps its own files. Build the image without that volume.
        The image declares the volume /, where the platform keeps its own files. Build the image without that volume.
        The image declares the volume /dev/shm, where the platform keeps its own files. Build the image without that volume.
        ");
    }

    #[test]
    fn volumes_beside_ours_are_fine() {
        for volume in ["/data", "/srv/notes", "/var/lib/notes", "/opt/cials"] {
            let image = serde_json::json!({ "Cmd": ["/app"], "Volumes": [volume] });
            assert!(merged(image, &AppSpec::default()).is_ok(), "{volume}");
        }
    }
}
