//! The `quota` subcommand: lets the filesystem under the engine's volumes enforce disk limits. It is a service of its own,
//! because that takes root and the engine's directory, and the orchestrator has neither. It knows tenants by their volumes
//! only, and keeps no state: what it set is on the filesystem.

mod btrfs;
mod client;
mod folders;
mod project;
mod qgroups;
mod volumes;
mod wire;

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use nix::unistd::{Gid, Uid, chown};
use protocol::inside::CIAL_UID;
use service::logs::LogFilter;
use service::settings::shared;
use service::{Env, ServiceError, Setting, SettingsReader};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use self::client::QuotaClient;
use self::volumes::{VolumeQuotas, quotas_of};
pub(crate) use self::wire::VolumeUse;
use self::wire::{QuotaError, QuotaRequest, QuotaResponse, TenantQuota};

pub(crate) const QUOTA_SOCKET: Setting = Setting::with_default(
    "CIAL_QUOTA_SOCKET",
    "/run/cial/quota/quota.sock",
    "where the service quota takes calls of the orchestrator",
);
const ENGINE_VOLUMES: Setting = Setting::with_default(
    "CIAL_ENGINE_VOLUMES",
    "/var/lib/docker/volumes",
    "the engine's directory of volumes; in `.env`: its path on the host",
)
.for_operators();

/// Every variable that the service `quota` reads.
pub const SETTINGS: &[Setting] = &[shared::LOG, QUOTA_SOCKET, ENGINE_VOLUMES];

/// Concurrent connections. The orchestrator makes fewer calls at once.
const MAX_CONNECTIONS: usize = 64;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_REQUEST_BYTES: u64 = 1 << 10;
/// The time that a call may wait for another one and change volumes. As much again is left to undo a change that is under
/// way, before the caller waits no longer.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(6);

struct Settings {
    log: LogFilter,
    socket: PathBuf,
    volumes: PathBuf,
}

impl Settings {
    fn read(env: &Env) -> Result<Self, ServiceError> {
        let mut vars = SettingsReader::new(env);
        let log = vars.value(&shared::LOG);
        let socket = vars.value(&QUOTA_SOCKET);
        let volumes = vars.value(&ENGINE_VOLUMES);
        Ok(vars.finish(|| Some(Self { log: log?, socket: socket?, volumes: volumes? }))?)
    }
}

/// Takes calls until the process receives a stop signal. The limits stay in force afterwards.
///
/// # Errors
/// Invalid settings, and a socket that cannot be created.
pub fn serve(env: &Env) -> Result<(), ServiceError> {
    let settings = Settings::read(env)?;
    service::logs::init(&settings.log);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async {
        let stop = service::shutdown_token()?;
        let volumes = Arc::new(Mutex::new(settings.volumes));
        // Tenants may have been deleted during an outage of the service.
        match call_volumes(volumes.clone(), |volumes| volumes.prepare()).await {
            Ok(()) => tracing::info!("disk limits are enforced by the filesystem"),
            Err(error) => tracing::warn!(%error, "disk limits are not enforced by the filesystem"),
        }
        let listener = listen(&settings.socket).context(QUOTA_SOCKET.name)?;
        accept(&listener, &volumes, &stop).await;
        fs::remove_file(&settings.socket).context(QUOTA_SOCKET.name)?;
        anyhow::Ok(())
    })?)
}

/// The health check of the service: whether it responds.
///
/// # Errors
/// Invalid settings.
pub fn check(env: &Env) -> Result<ExitCode, ServiceError> {
    let client = QuotaClient::new(Settings::read(env)?.socket);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let responds = runtime.block_on(client.responds());
    Ok(if responds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The socket is for the user of the orchestrator alone. A predecessor that was killed left its own.
fn listen(path: &Path) -> io::Result<UnixListener> {
    crate::tenants::state_dir::remove_if_present(path)?;
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let (user, group) = (Uid::from_raw(CIAL_UID), Gid::from_raw(CIAL_UID));
    chown(path, Some(user), Some(group))?;
    Ok(listener)
}

async fn accept(listener: &UnixListener, volumes: &Arc<Mutex<PathBuf>>, stop: &CancellationToken) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(REQUEST_TIMEOUT).await;
                continue;
            }
        };
        let Ok(permit) = connections.clone().try_acquire_owned() else { continue };
        let volumes = volumes.clone();
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = respond(stream, volumes).await {
                tracing::warn!(%error, "call failed");
            }
        });
    }
}

/// A connection is one line in JSON, and one back. A client that leaves gives up its call: the tenant's container may start
/// from then on.
async fn respond(mut stream: UnixStream, volumes: Arc<Mutex<PathBuf>>) -> anyhow::Result<()> {
    let mut line = String::new();
    let mut reader = BufReader::new((&mut stream).take(MAX_REQUEST_BYTES));
    tokio::time::timeout(REQUEST_TIMEOUT, reader.read_line(&mut line)).await??;
    let request: QuotaRequest = serde_json::from_str(&line).context("invalid request")?;
    let abandoned = CancellationToken::new();
    let call = {
        let abandoned = abandoned.clone();
        call_volumes(volumes, move |volumes| answer(volumes, request, &abandoned))
    };
    let response = match abandon_late(call, &mut stream, &abandoned).await {
        Ok(quotas) => QuotaResponse::Quotas(quotas),
        Err(error) => QuotaResponse::Error(error),
    };
    stream.write_all(&serde_json::to_vec(&response)?).await?;
    Ok(stream.shutdown().await?)
}

fn answer(
    volumes: &dyn VolumeQuotas,
    request: QuotaRequest,
    abandoned: &CancellationToken,
) -> Result<Vec<TenantQuota>, QuotaError> {
    match request {
        QuotaRequest::List => volumes.list(),
        QuotaRequest::Set { tenant, limit_bytes, volume_use } => {
            // The call may have waited for others.
            if abandoned.is_cancelled() {
                return Err(QuotaError::Failed(format!("the limit of {tenant} is set too late")));
            }
            let set = volumes.set(tenant, limit_bytes, volume_use, abandoned)?;
            Ok(set.into_iter().collect())
        }
        QuotaRequest::Remove { tenant } => volumes.remove(tenant).map(|()| Vec::new()),
    }
}

/// Waits for the end of `call`. Abandons it after [`CHANGE_TIMEOUT`], and as soon as the client has left.
async fn abandon_late<T>(
    call: impl Future<Output = T>,
    client: &mut UnixStream,
    abandoned: &CancellationToken,
) -> T {
    tokio::pin!(call);
    tokio::select! {
        done = &mut call => return done,
        // The client sends nothing after its line.
        _ = client.read_u8() => {}
        () = tokio::time::sleep(CHANGE_TIMEOUT) => {}
    }
    abandoned.cancel();
    call.await
}

/// Runs outside of the loop that accepts connections, one call at a time: a change reads first what is there.
async fn call_volumes<T: Send + 'static>(
    volumes: Arc<Mutex<PathBuf>>,
    call: impl FnOnce(&dyn VolumeQuotas) -> Result<T, QuotaError> + Send + 'static,
) -> Result<T, QuotaError> {
    let call = move || {
        let path = volumes.lock().unwrap_or_else(PoisonError::into_inner);
        call(&*quotas_of(&path)?)
    };
    let done = tokio::task::spawn_blocking(call).await;
    done.unwrap_or_else(|error| Err(QuotaError::Failed(error.to_string())))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use protocol::TenantId;

    use super::*;

    /// Counts the limits that are set.
    #[derive(Default)]
    struct Recorder(Cell<usize>);

    impl VolumeQuotas for Recorder {
        fn prepare(&self) -> Result<(), QuotaError> {
            Ok(())
        }

        fn list(&self) -> Result<Vec<TenantQuota>, QuotaError> {
            Ok(Vec::new())
        }

        fn set(
            &self,
            _: TenantId,
            _: u64,
            _: VolumeUse,
            _: &CancellationToken,
        ) -> Result<Option<TenantQuota>, QuotaError> {
            self.0.set(self.0.get() + 1);
            Ok(None)
        }

        fn remove(&self, _: TenantId) -> Result<(), QuotaError> {
            Ok(())
        }
    }

    #[test]
    fn a_limit_is_not_set_for_a_caller_who_waits_no_longer() {
        let tenant = TenantId::new(uuid::Uuid::nil());
        let set = QuotaRequest::Set { tenant, limit_bytes: 1, volume_use: VolumeUse::Unmounted };
        let (volumes, abandoned) = (Recorder::default(), CancellationToken::new());
        answer(&volumes, set, &abandoned).unwrap();
        assert_eq!(volumes.0.get(), 1);
        abandoned.cancel();
        answer(&volumes, set, &abandoned).unwrap_err();
        assert_eq!(volumes.0.get(), 1);
        // A call that changes no file is answered.
        answer(&volumes, QuotaRequest::List, &abandoned).unwrap();
        answer(&volumes, QuotaRequest::Remove { tenant }, &abandoned).unwrap();
    }

    /// The calls never end unless they are abandoned.
    #[tokio::test(start_paused = true)]
    async fn a_call_is_abandoned_when_its_client_leaves_or_it_takes_too_long() {
        for leaves in [true, false] {
            let (client, mut stream) = UnixStream::pair().unwrap();
            let client = (!leaves).then_some(client);
            let abandoned = CancellationToken::new();
            abandon_late(abandoned.cancelled(), &mut stream, &abandoned).await;
            drop(client);
        }
        let (_client, mut stream) = UnixStream::pair().unwrap();
        let abandoned = CancellationToken::new();
        assert_eq!(abandon_late(async { 7 }, &mut stream, &abandoned).await, 7);
        assert!(!abandoned.is_cancelled());
    }

    #[test]
    fn the_table_names_every_variable_that_is_read() {
        let read = service::settings::variables_read(|env| drop(Settings::read(env)));
        assert_eq!(read, SETTINGS.iter().map(|setting| setting.name.to_owned()).collect());
        let table = service::settings::reference_table(SETTINGS);
        testkit::reference::check_table("docs/reference/settings.md", "### quota", &table);
    }
}
