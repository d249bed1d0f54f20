//! A container engine of its own, with its data on a small filesystem: for tests that fill its disk or end it. Needs root
//! and `dockerd`.

use std::fs;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, Docker as Client};
use futures_util::FutureExt as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::{Filesystem, SmallDisk, eventually};

use super::{Install, PATIENCE, image};

/// How a machine goes down.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shutdown {
    /// The engine stops its containers, as on a reboot.
    Orderly,
    /// Every process ends at once.
    PowerCut,
}

pub(crate) struct PrivateEngine {
    pub(crate) disk: SmallDisk,
    /// `unshare`, the parent of the namespace in which the engine and all its containers run.
    namespace: Option<Child>,
}

const DISK_BYTES: u64 = 300 << 20;
const TIMEOUT_SECONDS: u64 = 120;

/// Runs `test` with an installation on a separate engine, and leaves nothing of either.
pub(crate) async fn with_private_engine(test: impl AsyncFnOnce(&mut PrivateEngine, &Install)) {
    with_private_engine_on(Filesystem::Ext4, test).await;
}

/// Like [`with_private_engine`], with the engine's data on another filesystem.
pub(crate) async fn with_private_engine_on(
    filesystem: Filesystem,
    test: impl AsyncFnOnce(&mut PrivateEngine, &Install),
) {
    let mut engine = PrivateEngine::start(filesystem).await;
    let client = engine.client().await;
    let image = image::build_tenant(&client).await;
    // All directories of the orchestrator are on the small disk, too.
    let base = engine.disk.path().join("cial");
    let install = Install::new_on(engine.socket(), client, image, base);
    let outcome = AssertUnwindSafe(test(&mut engine, &install)).catch_unwind().await;
    if let Err(panic) = outcome {
        eprintln!("{}", fs::read_to_string(engine.log()).unwrap_or_default());
        resume_unwind(panic);
    }
}

impl PrivateEngine {
    async fn start(filesystem: Filesystem) -> Self {
        let disk = SmallDisk::mount_as(filesystem, "engine", DISK_BYTES).unwrap();
        fs::write(disk.outside().join("daemon.json"), "{}").unwrap();
        let mut engine = Self { disk, namespace: None };
        engine.boot().await;
        engine
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.disk.outside().join("docker.sock")
    }

    /// The engine's directory of volumes.
    pub(crate) fn volumes(&self) -> PathBuf {
        self.data().join("volumes")
    }

    fn data(&self) -> PathBuf {
        self.disk.path().join("engine")
    }

    fn log(&self) -> PathBuf {
        self.disk.outside().join("log")
    }

    pub(crate) async fn client(&self) -> Client {
        let socket = self.socket().display().to_string();
        let client = Client::connect_with_unix(&socket, TIMEOUT_SECONDS, API_DEFAULT_VERSION);
        client.unwrap().negotiate_version().await.unwrap()
    }

    /// Starts the engine, in namespaces of its own: the network of the machine is not touched, and the end of the
    /// namespace is the end of every process in it.
    pub(crate) async fn boot(&mut self) {
        let outside = self.disk.outside();
        // Directories in memory are empty after a boot: no file of the crashed engine is left there.
        for volatile in ["exec", "pid", "docker.sock"] {
            let path = outside.join(volatile);
            let _ = fs::remove_dir_all(&path);
            let _ = fs::remove_file(&path);
        }
        let log = fs::File::options().append(true).create(true).open(self.log()).unwrap();
        let script = "ip link set lo up && exec dockerd \"$@\"";
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", script, "sh", "--iptables=false", "--bridge=none"])
            .args(["--storage-driver=overlay2", "--shutdown-timeout=15"])
            .arg("--exec-opt=native.cgroupdriver=cgroupfs")
            .arg(format!("--cgroup-parent=/{}", self.cgroup()))
            .arg(format!("--config-file={}", outside.join("daemon.json").display()))
            .arg(format!("--data-root={}", self.data().display()))
            .arg(format!("--exec-root={}", outside.join("exec").display()))
            .arg(format!("--pidfile={}", outside.join("pid").display()))
            .arg(format!("--host=unix://{}", self.socket().display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.namespace = Some(unshare.spawn().expect("unshare runs"));
        let ready = eventually("the private engine", PATIENCE, async || {
            let socket = self.socket().display().to_string();
            let client = Client::connect_with_unix(&socket, TIMEOUT_SECONDS, API_DEFAULT_VERSION);
            Ok(match client {
                Ok(client) => client.ping().await.is_ok(),
                Err(_) => false,
            })
        });
        if let Err(error) = ready.await {
            panic!("{error:#}: {}", fs::read_to_string(self.log()).unwrap_or_default());
        }
    }

    /// Ends the engine and every container.
    pub(crate) async fn shut_down(&mut self, how: Shutdown) {
        let Some(mut namespace) = self.namespace.take() else { return };
        match how {
            Shutdown::Orderly => kill(engine_pid(&namespace), Signal::SIGTERM).unwrap(),
            Shutdown::PowerCut => namespace.kill().unwrap(),
        }
        let ended = tokio::task::spawn_blocking(move || namespace.wait());
        tokio::time::timeout(PATIENCE, ended).await.expect("the engine ends").unwrap().unwrap();
        let cleared = eventually("cgroups without a process", PATIENCE, async || {
            Ok(clear_cgroups(self.cgroup()).is_ok())
        });
        cleared.await.unwrap();
    }

    /// The name of the cgroup of all containers. The directory's name is unique.
    fn cgroup(&self) -> &str {
        self.disk.outside().file_name().unwrap().to_str().unwrap()
    }
}

/// The only child of `unshare`: PID 1 of the namespace.
fn engine_pid(namespace: &Child) -> Pid {
    let id = namespace.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    Pid::from_raw(children.trim().parse().expect("one child"))
}

/// Removes the cgroups of the containers, which a real machine loses when it goes down. Fails while a process is left.
fn clear_cgroups(name: &str) -> std::io::Result<()> {
    // One hierarchy (version 2), or one for each controller (version 1).
    let hierarchies = fs::read_dir("/sys/fs/cgroup")?.flatten().map(|entry| entry.path());
    let hierarchies = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]);
    let roots: Vec<_> = hierarchies.map(|path| path.join(name)).filter(|p| p.is_dir()).collect();
    let mut containers = Vec::new();
    for root in &roots {
        let children = fs::read_dir(root)?.flatten().map(|entry| entry.path());
        containers.extend(children.filter(|path| path.is_dir()));
    }
    // First, because a frozen process ends only once it is thawed.
    for container in &containers {
        for (file, thawed) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            if container.join(file).exists() {
                fs::write(container.join(file), thawed)?;
            }
        }
    }
    containers.iter().chain(&roots).try_for_each(fs::remove_dir)
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        if let Some(mut namespace) = self.namespace.take() {
            let _ = namespace.kill();
            let _ = namespace.wait();
            // The processes of the namespace end a moment later. At worst an empty cgroup is left.
            for _ in 0..50 {
                if clear_cgroups(self.cgroup()).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}
