//! Project quotas on ext4 and XFS, which the kernel of this machine need not have: the service `quota` and programs of tenants
//! run in a virtual machine. `cargo xtask test quota` says where its kernel is.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, chown, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use protocol::TenantId;
use serde_json::{Value, json};

use crate::process::{PROGRAM, Process};
use crate::support::virtual_machine::{PASSED, VirtualMachine};

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 8 * MIB;
const SOCKET: &str = "/run/quota.sock";
const AGENT: u32 = 1001;
/// The first project of [`tenant`] 1.
const FIRST: u32 = 0x4000_0001;

#[test]
#[ignore = "boots a virtual machine: cargo xtask test quota"]
fn ext4_and_xfs_enforce_the_limits_of_projects() {
    let kernel = std::env::var_os("CIAL_TEST_KERNEL").expect("set by `cargo xtask test quota`");
    let mut machine = VirtualMachine::new(kernel.into());
    machine.add_program(&std::env::current_exe().unwrap(), "tests");
    machine.add_program(Path::new(PROGRAM), "orchestrator");
    // Other implementations of the calls that the service makes.
    for (path, name) in [("/usr/bin/lsattr", "lsattr"), ("/usr/bin/chattr", "chattr")] {
        machine.add_program(Path::new(path), name);
    }
    machine.add_program(Path::new("/usr/sbin/xfs_quota"), "xfs_quota");
    let project = ["-O", "project,quota", "-E", "quotatype=prjquota"];
    machine.add_disk(128 * MIB, &[&["mkfs.ext4", "-q", "-F", "-m", "0"], &project[..]].concat());
    machine.add_disk(320 * MIB, &["mkfs.xfs", "-q"]);
    machine.run("/bin/tests --ignored --exact project_quotas::inside_the_machine --nocapture");
}

#[test]
#[ignore = "runs in the virtual machine of another test"]
fn inside_the_machine() {
    let is_inside = std::env::current_exe().unwrap() == Path::new("/bin/tests");
    assert!(is_inside, "this test mounts disks of its machine: cargo xtask test quota");
    // XFS has no error of its own for projects.
    check("/dev/vda", "ext4", "Disk quota exceeded");
    check("/dev/vdb", "xfs", "No space left on device");
    println!("{PASSED}");
}

fn check(device: &str, kind: &'static str, refused: &'static str) {
    println!("{kind}");
    let machine = Machine { mount: Path::new("/mnt").join(kind), kind, refused };
    fs::create_dir(&machine.mount).unwrap();
    machine.mount(device, "noquota");
    fs::create_dir(machine.volumes()).unwrap();
    let service = machine.start_service();
    let response = call(&json!({ "call": "list" }));
    let why = response["error"]["unsupported"].as_str().unwrap();
    assert!(why.contains("is on a file system without project quotas"), "{why}");
    drop(service);
    assert!(busybox(&["umount", machine.mount.to_str().unwrap()]));
    machine.mount(device, "prjquota");

    let service = machine.start_service();
    machine.a_new_tenant_writes_up_to_its_limit();
    machine.the_number_of_files_is_bounded();
    machine.a_number_that_others_use_is_not_taken();
    machine.an_existing_tenant_is_held_to_its_limit_once_it_is_stopped();
    machine.a_tenant_beyond_its_limit_can_only_delete();
    machine.a_project_of_two_tenants_is_nobodys();
    drop(service);
    machine.the_limits_of_deleted_tenants_are_cleared();
}

struct Machine {
    mount: PathBuf,
    kind: &'static str,
    /// The error of a write beyond the limit.
    refused: &'static str,
}

fn tenant(number: u32) -> TenantId {
    format!("0192f0c1-2345-7abc-8def-0123{number:08x}").parse().unwrap()
}

/// One call of the orchestrator.
fn call(request: &Value) -> Value {
    let mut stream = UnixStream::connect(SOCKET).unwrap();
    stream.write_all(format!("{request}\n").as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    serde_json::from_str(&response).unwrap()
}

fn set(id: TenantId, limit_bytes: u64, volume_use: &str) -> Value {
    let request = json!({ "call": "set", "tenant": id, "limit_bytes": limit_bytes, "volume_use": volume_use });
    let response = call(&request);
    assert!(response["error"].is_null(), "{response}");
    response["quotas"].clone()
}

fn list() -> Vec<Value> {
    call(&json!({ "call": "list" }))["quotas"].as_array().unwrap().clone()
}

fn used_bytes(id: TenantId) -> Option<u64> {
    list().iter().find(|quota| quota["tenant"] == json!(id))?["used_bytes"].as_u64()
}

fn remove(id: TenantId) {
    assert_eq!(call(&json!({ "call": "remove", "tenant": id })), json!({ "quotas": [] }));
}

/// The limit of a tenant in a response, if one is in force.
fn limit(quotas: &Value) -> Option<u64> {
    quotas.get(0).map(|quota| quota["limit_bytes"].as_u64().unwrap())
}

fn busybox(args: &[&str]) -> bool {
    Command::new("/bin/busybox").args(args).status().unwrap().success()
}

fn output(program: &str, args: &[&str]) -> String {
    let ended = Command::new(program).args(args).output().unwrap();
    assert!(ended.status.success(), "{program} {args:?}: {ended:?}");
    String::from_utf8(ended.stdout).unwrap()
}

fn set_project(path: &Path, project: u32) {
    output("/bin/chattr", &["-p", &project.to_string(), "+P", path.to_str().unwrap()]);
}

fn project_of(path: &Path) -> u32 {
    let line = output("/bin/lsattr", &["-pd", path.to_str().unwrap()]);
    line.split_whitespace().next().unwrap().parse().unwrap()
}

impl Machine {
    fn volumes(&self) -> PathBuf {
        self.mount.join("volumes")
    }

    fn mount(&self, device: &str, options: &str) {
        let mount = self.mount.to_str().unwrap();
        assert!(busybox(&["mount", "-t", self.kind, "-o", options, device, mount]));
    }

    fn start_service(&self) -> Process {
        let service = || {
            let mut command = Command::new("/bin/orchestrator");
            command.arg("quota").env_clear().env("CIAL_QUOTA_SOCKET", SOCKET);
            command.env("CIAL_ENGINE_VOLUMES", self.volumes());
            command
        };
        let _ = fs::remove_file(SOCKET);
        let process = Process(service().spawn().unwrap());
        for _ in 0..600 {
            if service().arg("check").status().unwrap().success() {
                return process;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("the service does not respond");
    }

    /// Both directories of a tenant that its container mounts.
    fn directories(&self, id: TenantId) -> [PathBuf; 2] {
        let directory = |volume: String| self.volumes().join(volume).join("_data");
        [directory(id.data_volume()), directory(id.files_volume())]
    }

    /// Makes the volumes of a tenant, as the engine does.
    fn create(&self, number: u32) -> (TenantId, [PathBuf; 2]) {
        let id = tenant(number);
        let directories = self.directories(id);
        for directory in &directories {
            fs::create_dir_all(directory).unwrap();
            chown(directory, Some(AGENT), Some(AGENT)).unwrap();
        }
        (id, directories)
    }

    /// Deletes the volumes of a tenant, as the engine does.
    fn delete(&self, id: TenantId) {
        for directory in self.directories(id) {
            fs::remove_dir_all(directory.parent().unwrap()).unwrap();
        }
    }

    /// A program of a tenant appends so many bytes. Returns how many it wrote, and whether it was refused more.
    fn write(&self, path: &Path, bytes: u64) -> (u64, bool) {
        let size = || fs::metadata(path).map_or(0, |metadata| metadata.len());
        let before = size();
        let file = format!("dd if=/dev/zero bs=64k count={} >> {}", bytes >> 16, path.display());
        let mut shell = Command::new("/bin/busybox");
        let ended = shell.args(["sh", "-c", &file]).uid(AGENT).gid(AGENT).output().unwrap();
        let errors = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.success() || errors.contains(self.refused), "{errors}");
        (size() - before, !ended.status.success())
    }

    /// The limits of a project in bytes and inodes, as `xfs_quota` shows them.
    fn limits(&self, project: u32) -> Option<(u64, u64)> {
        let report = output(
            "/bin/xfs_quota",
            &["-f", "-x", "-c", "report -p -n -N -b -i", self.mount.to_str().unwrap()],
        );
        let name = format!("#{project}");
        let line = report.lines().find(|line| line.split_whitespace().next() == Some(&name))?;
        // Used, soft, hard, warnings and time; blocks are of 1 KiB.
        let columns: Vec<_> = line.split_whitespace().collect();
        let number = |index: usize| columns[index].parse::<u64>().unwrap();
        Some((number(3) << 10, number(8)))
    }

    fn a_new_tenant_writes_up_to_its_limit(&self) {
        let (full, [data, files]) = self.create(1);
        let (other, [others_data, _]) = self.create(2);
        for id in [full, other] {
            assert_eq!(limit(&set(id, LIMIT, "new")), Some(LIMIT));
        }
        assert_eq!([&data, &files].map(|path| project_of(path)), [FIRST; 2]);
        assert_eq!(self.limits(FIRST), Some((LIMIT, 4096)));

        // Half of the limit in one volume leaves the other half for the other volume.
        assert_eq!(self.write(&files.join("a"), LIMIT / 2), (LIMIT / 2, false));
        let (written, is_refused) = self.write(&data.join("a"), LIMIT);
        assert!(is_refused);
        assert!((LIMIT / 4..=LIMIT / 2).contains(&written), "{written}");
        assert!(self.write(&files.join("b"), MIB).1);
        assert_eq!(self.write(&others_data.join("a"), LIMIT / 2), (LIMIT / 2, false));
        let used = used_bytes(full).unwrap();
        assert!((LIMIT * 3 / 4..=LIMIT).contains(&used), "{used}");

        // A changed limit holds at once, while the tenant runs.
        assert_eq!(limit(&set(full, 2 * LIMIT, "mounted")), Some(2 * LIMIT));
        assert_eq!(self.limits(FIRST), Some((2 * LIMIT, 4096)));
        assert_eq!(self.write(&data.join("a"), LIMIT / 2), (LIMIT / 2, false));
        // A limit that is no whole number of blocks is rounded up.
        let rounded = limit(&set(full, 2 * LIMIT + 1, "mounted")).unwrap();
        assert!((2 * LIMIT + 1..2 * LIMIT + (64 << 10)).contains(&rounded), "{rounded}");

        for id in [full, other] {
            remove(id);
            self.delete(id);
        }
        assert_eq!(list(), Vec::<Value>::new());
        assert!(self.limits(FIRST).is_none_or(|limits| limits == (0, 0)));
    }

    fn the_number_of_files_is_bounded(&self) {
        let (id, [data, files]) = self.create(3);
        set(id, LIMIT, "new");
        let create = |directory: &Path| {
            let script = format!(
                "i=0; while : > {}/$i; do i=$((i+1)); [ $i -lt 5000 ] || break; done",
                directory.display()
            );
            let mut shell = Command::new("/bin/busybox");
            let ended = shell.args(["sh", "-c", &script]).uid(AGENT).gid(AGENT).output().unwrap();
            let errors = String::from_utf8(ended.stderr).unwrap();
            assert!(errors.contains(self.refused), "{errors}");
            fs::read_dir(directory).unwrap().count() as u64
        };
        // The shell makes the file that it cannot make last, and both directories count.
        let count = create(&files);
        assert_eq!(count, 4096 - 2);
        assert_eq!(create(&data), 0);
        remove(id);
        self.delete(id);
    }

    fn a_number_that_others_use_is_not_taken(&self) {
        let (id, [data, _]) = self.create(5);
        // One belongs to an administrator's directory, the next to a volume of another tenant.
        let foreign = self.mount.join("administrator");
        fs::create_dir(&foreign).unwrap();
        set_project(&foreign, FIRST + 4);
        let (other, [others_data, _]) = self.create(4);
        set_project(&others_data, FIRST + 5);
        assert_eq!(limit(&set(id, LIMIT, "new")), Some(LIMIT));
        assert_eq!(project_of(&data), FIRST + 6);
        for id in [id, other] {
            remove(id);
            self.delete(id);
        }
        assert_eq!(project_of(&foreign), FIRST + 4);
    }

    fn an_existing_tenant_is_held_to_its_limit_once_it_is_stopped(&self) {
        let (id, [data, files]) = self.create(16);
        let nested = files.join("a/b/c");
        fs::create_dir_all(&nested).unwrap();
        chown(&nested, Some(AGENT), Some(AGENT)).unwrap();
        assert_eq!(self.write(&nested.join("old"), 2 * MIB), (2 * MIB, false));
        assert_eq!(self.write(&data.join("old"), MIB), (MIB, false));
        // Links lead nowhere.
        let outside = self.mount.join("outside");
        fs::write(&outside, vec![0; 4 << 20]).unwrap();
        symlink(&outside, files.join("link")).unwrap();
        symlink(&self.mount, nested.join("link")).unwrap();
        assert!(busybox(&["mkfifo", files.join("fifo").to_str().unwrap()]));

        assert_eq!(limit(&set(id, LIMIT, "mounted")), None);
        assert_eq!(project_of(&files), 0);
        assert_eq!(limit(&set(id, LIMIT, "unmounted")), Some(LIMIT));
        assert_eq!([&outside, &self.mount].map(|path| project_of(path)), [0; 2]);
        let used = used_bytes(id).unwrap();
        assert!((3 * MIB..4 * MIB).contains(&used), "{used}");
        let (written, is_refused) = self.write(&nested.join("old"), LIMIT);
        assert!(is_refused);
        assert!((4 * MIB..=5 * MIB).contains(&written), "{written}");
        // Inside, files move and new directories count. Both take some room.
        assert_eq!(limit(&set(id, 2 * LIMIT, "mounted")), Some(2 * LIMIT));
        fs::rename(nested.join("old"), files.join("moved")).unwrap();
        let new = files.join("new");
        fs::create_dir(&new).unwrap();
        assert_eq!(project_of(&new), project_of(&files));

        remove(id);
        assert_eq!(
            self.write(&data.join("old"), 2 * LIMIT),
            (2 * LIMIT, false),
            "no limit is left"
        );
        self.delete(id);
    }

    fn a_tenant_beyond_its_limit_can_only_delete(&self) {
        let (id, [data, files]) = self.create(32);
        assert_eq!(self.write(&files.join("a"), 2 * LIMIT), (2 * LIMIT, false));
        assert_eq!(limit(&set(id, LIMIT, "unmounted")), Some(LIMIT));
        assert_eq!(self.write(&data.join("a"), MIB), (0, true));
        fs::remove_file(files.join("a")).unwrap();
        assert_eq!(self.write(&data.join("a"), MIB), (MIB, false));
        remove(id);
        self.delete(id);
    }

    fn a_project_of_two_tenants_is_nobodys(&self) {
        let (a, [data, _]) = self.create(48);
        let (b, [copied, _]) = self.create(64);
        set(a, LIMIT, "new");
        set_project(&copied, project_of(&data));
        assert_eq!(list(), Vec::<Value>::new());
        // The owner of a file may change its project, which is why tenants are not let make the call.
        let file = data.join("file");
        assert_eq!(self.write(&file, MIB), (MIB, false));
        let mut change = Command::new("/bin/chattr");
        let changed = change.args(["-p", "0"]).arg(&file).uid(AGENT).gid(AGENT).status().unwrap();
        assert!(changed.success());
        assert_eq!((project_of(&file), fs::metadata(&file).unwrap().uid()), (0, AGENT));
        // Both get projects of their own when they are next seen stopped.
        for id in [a, b] {
            assert_eq!(limit(&set(id, LIMIT, "unmounted")), Some(LIMIT));
        }
        assert_ne!(project_of(&copied), project_of(&data));
        assert_eq!(project_of(&file), project_of(&data));
        for id in [a, b] {
            remove(id);
            self.delete(id);
        }
    }

    fn the_limits_of_deleted_tenants_are_cleared(&self) {
        let service = self.start_service();
        let (kept, gone) = (self.create(80).0, self.create(96).0);
        for id in [kept, gone] {
            assert_eq!(limit(&set(id, LIMIT, "new")), Some(LIMIT));
        }
        drop(service);
        self.delete(gone);
        assert_eq!(self.limits(FIRST + 95), Some((LIMIT, 4096)), "the kernel keeps it");
        let _service = self.start_service();
        assert!(self.limits(FIRST + 95).is_none_or(|limits| limits == (0, 0)));
        assert_eq!(self.limits(FIRST + 79), Some((LIMIT, 4096)));
        assert_eq!(list().len(), 1);
    }
}
