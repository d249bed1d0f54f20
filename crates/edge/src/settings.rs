//! The edge's settings, read from the environment set by PID 1 and from secret files.

use std::io;
use std::path::{Path, PathBuf};

use protocol::inside::{
    APP_PORT, CORE_BACK_SOCKET, CORE_FRONT_SOCKET, EDGE_GAUGES_SOCKET, PLATFORM_FRONT,
    PUBLIC_PATHS, ROUTE_PROOF, ROUTE_TOKEN, SECRETS_DIR,
};
use service::settings::SettingsErrors;
use service::{Env, SettingsReader};

use crate::public_paths::PublicPaths;
use crate::route_token::RouteToken;

/// The addresses of the services behind the edge. platform-back is absent: no public route leads there.
pub struct UpstreamAddresses {
    pub core_back: PathBuf,
    pub core_front: PathBuf,
    pub platform_front: String,
}

pub struct Settings {
    pub route_token: Option<RouteToken>,
    pub upstreams: UpstreamAddresses,
    pub public_paths: PublicPaths,
    /// The socket on which core-back reads the edge's gauges.
    pub gauges_socket: PathBuf,
}

impl Settings {
    pub fn read(env: &Env) -> Result<Self, SettingsErrors> {
        let mut vars = SettingsReader::new(env);
        let route_token = match read_route_token(Path::new(SECRETS_DIR)) {
            Ok(route_token) => Some(route_token),
            Err(why) => vars.reject_named(SECRETS_DIR, &why),
        };
        let upstreams = UpstreamAddresses {
            core_back: CORE_BACK_SOCKET.into(),
            core_front: CORE_FRONT_SOCKET.into(),
            platform_front: platform_address(env),
        };
        let public_paths = env(PUBLIC_PATHS)
            .map_or_else(|| Ok(PublicPaths::default()), |text| PublicPaths::parse(&text));
        let public_paths = match public_paths {
            Ok(paths) => Some(paths),
            Err(why) => vars.reject_named(PUBLIC_PATHS, &why.to_string()),
        };
        let gauges_socket = EDGE_GAUGES_SOCKET.into();
        vars.finish(|| {
            Some(Self {
                route_token: route_token?,
                upstreams,
                public_paths: public_paths?,
                gauges_socket,
            })
        })
    }
}

/// The address of the tenant's own app: that of the built-in app, or the port of an app's program.
fn platform_address(env: &Env) -> String {
    let port = env(APP_PORT).and_then(|port| port.parse::<u16>().ok());
    port.map_or_else(|| PLATFORM_FRONT.to_owned(), |port| format!("127.0.0.1:{port}"))
}

/// Fails for a token that is unreadable or empty: such a file must not disable the check.
fn read_route_token(dir: &Path) -> Result<Option<RouteToken>, String> {
    let Some(token) = read(&dir.join(ROUTE_TOKEN))? else { return Ok(None) };
    let proof = read(&dir.join(ROUTE_PROOF))?
        .ok_or_else(|| format!("holds {ROUTE_TOKEN} and must hold {ROUTE_PROOF} too"))?;
    Ok(Some(RouteToken { token, proof }))
}

fn read(path: &Path) -> Result<Option<String>, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text.trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
    };
    let is_visible = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    if is_visible {
        Ok(Some(text))
    } else {
        Err(format!("{} must be one line of visible ASCII", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edge_reads_two_variables_of_an_app_and_no_other() {
        let read = service::settings::variables_read(|env| drop(Settings::read(env)));
        assert!(
            read.iter().eq([APP_PORT, PUBLIC_PATHS]),
            "docs/reference/settings.md says otherwise: {read:?}"
        );
    }

    #[test]
    fn without_an_app_the_built_in_one_is_behind_the_edge() {
        assert_eq!(platform_address(&|_| None), PLATFORM_FRONT);
        let with_app = |name: &str| (name == APP_PORT).then(|| "5000".to_owned());
        assert_eq!(platform_address(&with_app), "127.0.0.1:5000");
    }

    #[test]
    fn a_guard_is_whole_or_absent() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        assert!(read_route_token(dir.path()).unwrap().is_none());
        write(ROUTE_TOKEN, "token\n");
        assert!(read_route_token(dir.path()).is_err(), "no proof");
        write(ROUTE_PROOF, "proof");
        let route_token = read_route_token(dir.path()).unwrap().unwrap();
        assert_eq!((route_token.token.as_str(), route_token.proof.as_str()), ("token", "proof"));
        write(ROUTE_TOKEN, "");
        assert!(read_route_token(dir.path()).is_err(), "an empty token would be no check");
    }
}
