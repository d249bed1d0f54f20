//! The SQL of a tenant's schema, as pg_dump writes it, in a file that nobody else can open.
//!
//! pg_dump connects as the tenant's role: the tenant's own functions and triggers run with no other rights. The dump is one
//! transaction, so it is consistent, and holds up the vacuum of every table of the server. Therefore pg_dump writes to a file at the
//! speed of the disk, however slowly the client of the export reads.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use rustix::fs::{MemfdFlags, Mode, fchmod, fstatvfs, memfd_create};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use service::Secret;
use tenant_archive::{Compressor, Decompressor, MAX_DATABASE_BYTES};
use tokio::task::JoinHandle;

use crate::disk_reserve;
use crate::tenant_databases::DumpSource;

/// Below the time after which the session of a tenant with an open transaction is ended.
const DUMP_TIMEOUT: Duration = Duration::from_secs(9 * 60);
/// How long pg_dump waits for the lock of a table.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
const BUFFER_BYTES: usize = 64 << 10;
/// The kept end of the error output of pg_dump.
const MAX_COMPLAINT_BYTES: usize = 4 << 10;
/// How much is written between two looks at the disk.
const FREE_CHECK_BYTES: u64 = 4 << 20;
/// The memory of pg_dump, which keeps what it reads of the catalogs of all tenants.
const MAX_MEMORY_BYTES: u64 = 2 << 30;
/// The environment of pg_dump, besides the password. The messages must be in English to be told apart.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("LC_ALL", "C"),
    ("PATH", "/usr/local/bin:/usr/bin:/bin"),
    ("PGAPPNAME", "cial app-api export"),
    ("PGCONNECT_TIMEOUT", "3"),
    ("PGGSSENCMODE", "disable"),
    // These come before the settings of the role, which the tenant can change.
    (
        "PGOPTIONS",
        "-c standard_conforming_strings=on -c quote_all_identifiers=off -c statement_timeout=0",
    ),
    ("PGPASSFILE", "/proc/self/fd/0"),
    ("PGSSLMODE", "disable"),
];
/// The tables of the platform whose rows are the history of one tenant. A copy of the tenant begins without a history.
const HISTORY: &[&str] = &["cial_executions", "cial_tasks", "cial_task_lines"];

/// The program, and where what it writes may lie.
#[derive(Clone, Debug)]
pub struct DumpSettings {
    pub program: String,
    pub directory: PathBuf,
}

/// The reason why there is no dump.
#[derive(Debug)]
pub(super) enum DumpError {
    /// The program is missing.
    NoProgram(io::Error),
    /// pg_dump ended without success; the text is the end of its error output.
    Ended(String),
    /// A signal ended pg_dump.
    Killed,
    TimedOut,
    TooLarge,
    DiskFull,
    Internal(anyhow::Error),
}

/// A dump that is being written. Ends pg_dump when dropped.
pub(super) struct Dump {
    process: Arc<Process>,
    has_begun: Arc<AtomicBool>,
    writing: JoinHandle<Result<Spool, DumpError>>,
    deadline: std::pin::Pin<Box<tokio::time::Sleep>>,
}

struct Process(Mutex<Child>);

impl Process {
    fn kill(&self) {
        // A holder of the lock waits for a process that has closed its output.
        if let Ok(mut child) = self.0.try_lock() {
            let _ = child.kill();
        }
    }

    fn wait(&self) -> io::Result<ExitStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).wait()
    }
}

impl Drop for Dump {
    fn drop(&mut self) {
        self.process.kill();
    }
}

impl Dump {
    pub(super) fn start(settings: &DumpSettings, source: &DumpSource) -> Result<Self, DumpError> {
        let mut child = spawn(&settings.program, source)?;
        bound_memory(&child);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let process = Arc::new(Process(Mutex::new(child)));
        let has_begun = Arc::new(AtomicBool::new(false));
        let writing = tokio::task::spawn_blocking({
            let (process, has_begun) = (process.clone(), has_begun.clone());
            let directory = settings.directory.clone();
            move || write_all(&process, stdout, stderr, &directory, &has_begun)
        });
        let deadline = Box::pin(tokio::time::sleep(DUMP_TIMEOUT));
        Ok(Self { process, has_begun, writing, deadline })
    }

    /// Whether pg_dump has its snapshot: it writes nothing before.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Acquire)
    }

    /// Waits for the end of the dump. May be dropped and called again until it returned.
    pub(super) async fn end(&mut self) -> Result<Spool, DumpError> {
        tokio::select! {
            written = &mut self.writing => {
                written.unwrap_or_else(|error| Err(DumpError::Internal(error.into())))
            }
            () = &mut self.deadline => Err(DumpError::TimedOut),
        }
    }
}

fn spawn(program: &str, source: &DumpSource) -> Result<Child, DumpError> {
    let schema = &source.schema;
    let history = HISTORY.iter().map(|table| format!("--exclude-table-data={schema}.{table}"));
    let mut command = Command::new(program);
    command
        .args([
            "--no-password",
            "--encoding=UTF8",
            "--no-owner",
            "--no-privileges",
            "--no-publications",
            "--no-security-labels",
            "--no-subscriptions",
            "--no-tablespaces",
            "--no-toast-compression",
            "--strict-names",
        ])
        .arg(format!("--lock-wait-timeout={}", LOCK_TIMEOUT.as_millis()))
        .arg(format!("--schema={schema}"))
        .args(history)
        .args(&source.arguments)
        .env_clear()
        .envs(ENVIRONMENT.iter().copied())
        .stdin(password_file(&source.password).map_err(|error| DumpError::Internal(error.into()))?)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().map_err(|error| {
        if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) {
            DumpError::NoProgram(error)
        } else {
            DumpError::Internal(error.into())
        }
    })
}

/// Bounds the memory of pg_dump, so that app-api keeps its own. Fails harmlessly for a child that has ended.
fn bound_memory(child: &Child) {
    let limit = Rlimit { current: Some(MAX_MEMORY_BYTES), maximum: Some(MAX_MEMORY_BYTES) };
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = prlimit(Some(pid), Resource::As, limit);
    }
}

/// A file in memory, which pg_dump opens by the number of its standard input: no environment, argument or disk holds the password.
fn password_file(password: &Secret) -> io::Result<Stdio> {
    let file = memfd_create("pgpass", MemfdFlags::CLOEXEC)?;
    // libpq ignores a password file on which others than its owner have rights.
    fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    let mut file = File::from(file);
    let escaped = password.reveal().replace('\\', "\\\\").replace(':', "\\:");
    file.write_all(format!("*:*:*:*:{escaped}\n").as_bytes())?;
    Ok(file.into())
}

fn write_all(
    process: &Process,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    directory: &Path,
    has_begun: &AtomicBool,
) -> Result<Spool, DumpError> {
    let missing = || DumpError::Internal(anyhow::anyhow!("pg_dump has no output"));
    let (stdout, stderr) = (stdout.ok_or_else(missing)?, stderr.ok_or_else(missing)?);
    let complaining = std::thread::spawn(move || read_end(stderr));
    let spooled = Spool::fill(stdout, directory, has_begun);
    if spooled.is_err() {
        process.kill();
    }
    let status = process.wait().map_err(|error| DumpError::Internal(error.into()))?;
    let complaint = complaining.join().unwrap_or_default();
    let spool = spooled?;
    match status.signal() {
        Some(_) => Err(DumpError::Killed),
        None if status.success() => Ok(spool),
        None => Err(DumpError::Ended(complaint)),
    }
}

/// Reads the error output to its end, and returns the last [`MAX_COMPLAINT_BYTES`].
fn read_end(mut stderr: ChildStderr) -> String {
    let (mut end, mut buffer) = (Vec::new(), [0; 1 << 10]);
    while let Ok(read @ 1..) = stderr.read(&mut buffer) {
        end.extend_from_slice(buffer.get(..read).unwrap_or_default());
        end.drain(..end.len().saturating_sub(MAX_COMPLAINT_BYTES));
    }
    String::from_utf8_lossy(&end).trim().to_owned()
}

/// A dump on the disk, compressed. The file has no name, and is gone with this value.
pub(super) struct Spool {
    file: File,
    decompressor: Decompressor,
}

impl Spool {
    fn fill(
        mut stdout: ChildStdout,
        directory: &Path,
        has_begun: &AtomicBool,
    ) -> Result<Self, DumpError> {
        let mut file = tempfile::tempfile_in(directory).map_err(disk_error)?;
        let mut compressor = Compressor::new().map_err(disk_error)?;
        let (mut buffer, mut bytes, mut unchecked) = (vec![0; BUFFER_BYTES], 0_u64, u64::MAX);
        loop {
            let read = match stdout.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(disk_error(error)),
            };
            has_begun.store(true, Ordering::Release);
            bytes += read as u64;
            if bytes > MAX_DATABASE_BYTES {
                return Err(DumpError::TooLarge);
            }
            let piece = buffer.get(..read).unwrap_or_default();
            let compressed = compressor.compress(piece).map_err(disk_error)?;
            if unchecked > FREE_CHECK_BYTES {
                check_free(&file)?;
                unchecked = 0;
            }
            unchecked += compressed.len() as u64;
            file.write_all(&compressed).map_err(disk_error)?;
        }
        file.write_all(&compressor.finish().map_err(disk_error)?).map_err(disk_error)?;
        file.rewind().map_err(disk_error)?;
        let decompressor =
            Decompressor::new().map_err(|fault| DumpError::Internal(fault.into()))?;
        Ok(Self { file, decompressor })
    }

    /// Returns the next bytes, with the rest; `None` is the end.
    pub(super) async fn next_piece(mut self) -> anyhow::Result<Option<(Vec<u8>, Self)>> {
        let read = move || Ok(self.read()?.map(|piece| (piece, self)));
        tokio::task::spawn_blocking(read).await?
    }

    fn read(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        loop {
            if let Some(piece) = self.decompressor.next_piece()? {
                return Ok(Some(piece));
            }
            let mut buffer = vec![0; BUFFER_BYTES];
            let read = self.file.read(&mut buffer)?;
            if read == 0 {
                return Ok(None);
            }
            buffer.truncate(read);
            self.decompressor.push(Bytes::from(buffer));
        }
    }
}

fn check_free(file: &File) -> Result<(), DumpError> {
    let disk = fstatvfs(file).map_err(|error| disk_error(error.into()))?;
    let is_full = disk_reserve::is_reached(&disk, disk_reserve::RESERVE_BYTES);
    if is_full { Err(DumpError::DiskFull) } else { Ok(()) }
}

fn disk_error(error: io::Error) -> DumpError {
    if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
        DumpError::DiskFull
    } else {
        DumpError::Internal(error.into())
    }
}
