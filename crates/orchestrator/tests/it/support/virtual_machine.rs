//! A machine with a kernel of Debian, for what the kernel of this one need not have. Its only program is a test, its files
//! are in memory, and it has no network. Needs `qemu-system-x86_64`.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use testkit::TempDir;

/// The modules of virtio disks, of ext4 and of XFS, each after those that it needs.
const MODULES: [&str; 15] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "crc16",
    "mbcache",
    "jbd2",
    "crc32c_generic",
    "libcrc32c",
    "quota_tree",
    "quota_v2",
    "ext4",
    "xfs",
];
/// An emulated processor is slow.
const TIMEOUT_SECONDS: &str = "240";
/// The last line of a test in the machine.
pub(crate) const PASSED: &str = "the test in the machine passed";

pub(crate) struct VirtualMachine {
    /// The unpacked packages of a kernel and of busybox.
    kernel: PathBuf,
    dir: TempDir,
    disks: Vec<PathBuf>,
}

impl VirtualMachine {
    /// A machine whose kernel and modules are those in a directory that `scripts/install-tools` made.
    pub(crate) fn new(kernel: PathBuf) -> Self {
        let dir = TempDir::new("machine").unwrap();
        for folder in ["bin", "dev", "etc", "lib/modules", "mnt", "proc", "run", "sys", "tmp"] {
            fs::create_dir_all(dir.path().join("root").join(folder)).unwrap();
        }
        symlink("/proc/mounts", dir.path().join("root/etc/mtab")).unwrap();
        let machine = Self { kernel, dir, disks: Vec::new() };
        fs::copy(machine.busybox(), machine.root().join("bin/busybox")).unwrap();
        for module in MODULES {
            machine.add_module(module);
        }
        machine
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn busybox(&self) -> PathBuf {
        self.kernel.join("bin/busybox")
    }

    fn add_module(&self, name: &str) {
        let mut find = Command::new("find");
        find.arg(self.kernel.join("lib/modules")).arg("-name").arg(format!("{name}.ko"));
        let found = output(&mut find);
        let path = found.lines().next().unwrap_or_else(|| panic!("no module {name}"));
        fs::copy(path, self.root().join("lib/modules").join(format!("{name}.ko"))).unwrap();
    }

    /// Adds a program of this machine as `/bin/NAME`, with its libraries.
    pub(crate) fn add_program(&self, program: &Path, name: &str) {
        let copy = self.root().join("bin").join(name);
        output(Command::new("strip").arg("-o").arg(&copy).arg(program));
        // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, or the path alone.
        for line in output(Command::new("ldd").arg(program)).lines() {
            let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) else {
                continue;
            };
            let copy = self.root().join(library.trim_start_matches('/'));
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(library, copy).unwrap();
        }
    }

    /// Adds a disk with a filesystem, which `make` makes in a file. The first is `/dev/vda`.
    pub(crate) fn add_disk(&mut self, bytes: u64, make: &[&str]) {
        let disk = self.dir.path().join(format!("disk{}", self.disks.len()));
        File::create(&disk).unwrap().set_len(bytes).unwrap();
        output(Command::new(make[0]).args(&make[1..]).arg(&disk));
        self.disks.push(disk);
    }

    /// Boots, runs a program, which prints [`PASSED`], and waits for the end of the machine.
    pub(crate) fn run(&self, command: &str) {
        let init = self.root().join("init");
        fs::write(&init, format!("{}{command}\n{END}", start())).unwrap();
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();
        let archive = self.dir.path().join("initramfs");
        let mut pack = Command::new("sh");
        pack.arg("-c").arg("cd \"$1\" && find . | \"$2\" cpio -o -H newc > \"$3\"").arg("sh");
        output(pack.arg(self.root()).arg(self.busybox()).arg(&archive));
        let image =
            output(Command::new("find").arg(self.kernel.join("boot")).args(["-name", "vmlinuz-*"]));
        let mut emulator = Command::new("timeout");
        // No hardware: a machine that is virtual itself may offer it, and hang.
        emulator.args([TIMEOUT_SECONDS, "qemu-system-x86_64", "-accel", "tcg"]);
        emulator.args(["-m", "1024", "-nographic", "-no-reboot", "-net", "none"]);
        emulator.args(["-kernel", image.trim(), "-append", "console=ttyS0 panic=-1 quiet"]);
        emulator.arg("-initrd").arg(&archive);
        for disk in &self.disks {
            emulator.args(["-drive", &format!("if=virtio,format=raw,file={}", disk.display())]);
        }
        let ended = emulator.stdin(Stdio::null()).output().expect("qemu-system-x86_64 runs");
        let console = String::from_utf8_lossy(&ended.stdout);
        let passed = console.lines().any(|line| line.trim_end() == PASSED);
        assert!(passed, "{}\n{console}", String::from_utf8_lossy(&ended.stderr));
    }
}

fn start() -> String {
    let modules = MODULES.join(" ");
    format!(
        "#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs devices /dev
for module in {modules}; do busybox insmod /lib/modules/$module.ko; done
"
    )
}

const END: &str = "busybox poweroff -f\n";

fn output(command: &mut Command) -> String {
    let ended = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(ended.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).unwrap()
}
