//! The inside of a tenant's container: users, paths, sockets and variables. Shared by the
//! orchestrator, which creates the container, and the processes inside.

/// The trusted half runs as this user.
pub const CIAL_UID: u32 = 1000;
/// The tenant's own app runs as this user.
pub const AGENT_UID: u32 = 1001;

/// Bound read-only from the tenant's directory of the installation's secrets volume.
pub const SECRETS_DIR: &str = "/run/cial/secrets";
/// File name of the tenant's HS256 key: 32 raw bytes. Absent where [`SSO_PUBLIC_KEY`] is used.
pub const SSO_KEY: &str = "sso-key";
/// File name of the installation's RS256 public key, as PEM. Where the file exists, HS256 tokens
/// are refused.
pub const SSO_PUBLIC_KEY: &str = "sso-public.pem";
/// File name of the token that a request must carry in `x-cial-route-token`. Without the file, the
/// edge does not check.
pub const ROUTE_TOKEN: &str = "route-token";
/// File name of the proof that responses to such requests carry in `x-cial-proof`.
pub const ROUTE_PROOF: &str = "route-proof";
/// File name of the variables and secrets of the app's program, as JSON: [`Variables`](crate::variables::Variables).
/// Absent where there are none.
pub const APP_VARIABLES: &str = "app-variables.json";
/// File name of the URL with which the app's program reaches the tenant's own database. Absent where the program does not
/// want one.
pub const DATABASE_URL_FILE: &str = "database-url";
/// File name of the tenant's share of the disk, a [`DiskShare`](crate::files::DiskShare). The orchestrator replaces it while the
/// tenant runs.
pub const DISK_SHARE: &str = "disk-share.json";

/// Bound read-only from the tenant's directory of the installation's databases volume, if the app wants a database. Every
/// user may enter it.
pub const DATABASE_DIR: &str = "/run/cial/database";
/// In that directory: the socket of the database proxy, under the name that clients of Postgres derive from the directory.
pub const DATABASE_SOCKET: &str = ".s.PGSQL.5432";
/// In that directory: the name of the tenant's role, from which the database proxy learns whom it may let in.
pub const DATABASE_ROLE: &str = "role";
/// Variable of the app's program: the content of [`DATABASE_URL_FILE`].
pub const DATABASE_URL: &str = "DATABASE_URL";

/// File name of the token by which the tenant's core calls the model of the installation. Absent unless the app's manifest says
/// `chat = "model"`.
pub const MODEL_TOKEN: &str = "model-token";
/// The installation's models volume, bound read-only where the app's manifest says `chat = "model"`. All tenants share it: it holds
/// [`MODELS_SOCKET`] alone. Only `cial` may enter it.
pub const MODELS_DIR: &str = "/run/cial/models";
/// In that directory: the socket on which app-api takes the calls of [`model`](crate::model).
pub const MODELS_SOCKET: &str = "models.sock";

/// Bound from the tenant's directory of the installation's sockets volume; owned by `cial`, 0750.
pub const INGRESS_DIR: &str = "/run/cial/ingress";
/// The edge's unix socket, beside TCP port 8080.
pub const INGRESS_SOCKET: &str = "edge.sock";
pub const INGRESS_PORT: u16 = 8080;
/// In the same directory: core-back serves the orchestrator here. No request from outside reaches
/// this socket.
pub const ORCHESTRATOR_SOCKET: &str = "busy.sock";
/// tmpfs, owned by `cial` with the group of `agent`, 0750: `agent` can enter the directory and
/// change nothing in it.
pub const AGENT_DIR: &str = "/run/cial/agent";
/// The socket on which processes of `agent` declare that they are busy.
pub const AGENT_BUSY_SOCKET: &str = "/run/cial/agent/busy.sock";

/// tmpfs, owned by `cial`, 0700.
pub const CORE_DIR: &str = "/run/cial/core";
pub const CORE_BACK_SOCKET: &str = "/run/cial/core/back.sock";
pub const CORE_FRONT_SOCKET: &str = "/run/cial/core/front.sock";
/// The socket on which the core half declares that it is busy. Differs from [`CORE_BACK_SOCKET`],
/// which carries requests from outside, by way of the edge.
pub const CORE_BUSY_SOCKET: &str = "/run/cial/core/busy.sock";
/// The sockets on which the edge and core-front report their gauges to core-back.
pub const EDGE_GAUGES_SOCKET: &str = "/run/cial/core/edge-gauges.sock";
pub const CORE_FRONT_GAUGES_SOCKET: &str = "/run/cial/core/front-gauges.sock";
/// The socket on which the file server opens the files of `agent` for core-back.
pub const FILES_SOCKET: &str = "/run/cial/core/files.sock";
pub const PLATFORM_FRONT: &str = "127.0.0.1:3000";
pub const PLATFORM_BACK: &str = "127.0.0.1:3001";

/// Volume of the core half, owned by `cial`, 0700.
pub const DATA_DIR: &str = "/var/lib/cial";
/// Volume of the tenant's own files, owned by `agent`.
pub const FILES_DIR: &str = "/home/agent/files";

/// Variable: the tenant's name on pages, by default the slug.
pub const TENANT_ID: &str = "TENANT_ID";
/// Variable: the tenant's id, as tokens name it.
pub const TENANT_UUID: &str = "CIAL_TENANT_UUID";
/// Variable: the names, with commas between them, of the variables that the tenant's own app
/// receives (those of `Spec::env`). Of the container's other variables the app receives
/// [`TENANT_ID`] and the locale.
pub const APP_ENV: &str = "CIAL_APP_ENV";

/// Variable: the program of an app as JSON, an [`AppProcess`](crate::process::AppProcess). Without
/// the variable, the tenant runs the built-in app: platform-front and platform-back.
pub const APP_PROCESS: &str = "CIAL_APP_PROCESS";
/// Variable: the port of 127.0.0.1 on which the program of an app listens.
pub const APP_PORT: &str = "CIAL_APP_PORT";
/// Variable: [`AppSpec::public_paths`](crate::process::AppSpec::public_paths) as a list in JSON.
pub const PUBLIC_PATHS: &str = "CIAL_PUBLIC_PATHS";
/// The port of a program that neither its image nor its release names.
pub const DEFAULT_APP_PORT: u16 = 3000;
/// Variable for [`supervisor_commands::START`]: the app as JSON, with all that PID 1 knows of it.
pub const START_APP: &str = "CIAL_START_APP";
/// In [`FILES_DIR`]: the folder in which starts of an app remember its hooks.
pub const HOOK_STATE_DIR: &str = ".cial";
/// Variable of every process of a command that [`supervisor_commands::RUN`] starts: the command's id.
pub const COMMAND_ID: &str = "CIAL_COMMAND_ID";
/// Variable for [`supervisor_commands::RUN`]: the tenant's own variables and the URL of its database, as JSON.
pub const COMMAND_VARIABLES: &str = "CIAL_COMMAND_VARIABLES";
/// The subcommands of the program of PID 1. Each runs as `agent`.
pub mod supervisor_commands {
    /// `start-app FOLDER`: runs the hooks that are due by the state in the tenant's files, and becomes the app's program.
    pub const START: &str = "start-app";
    /// `run-command [PROGRAM [ARGUMENT]…]`: becomes the program, in the environment of the app; without one, a shell.
    pub const RUN: &str = "run-command";
    /// `end-command ID`: ends every process of the command.
    pub const END: &str = "end-command";
    /// `run-task`: runs one attempt of a task, see [`tasks`](crate::tasks).
    pub const TASK: &str = "run-task";
}
/// The program of PID 1 in a wrapped image.
pub const WRAPPED_SUPERVISOR: &str = "/opt/cial/supervisor";

/// The readiness link between PID 1 and a service: a datagram pair.
///
/// Each service inherits its listening sockets from descriptor 3 on (`LISTEN_FDS`), then one end of
/// the link. The program of an app inherits neither; a probe of PID 1 watches its port. The service sends [`READY`](link::READY) once it accepts connections. When all
/// have, PID 1 sends [`ALL_READY`](link::ALL_READY) to core-back, whose health endpoint responds
/// from then on.
pub mod link {
    pub const READY: &[u8] = b"ready";
    pub const ALL_READY: &[u8] = b"all-ready";
    /// Sent by the probe of an app that is not ready for a while: followed by the ports on which the app's user listens,
    /// in decimal, separated by commas.
    pub const LISTENS: &str = "listens ";
    /// The longest message.
    pub const MAX_BYTES: usize = 128;
}
