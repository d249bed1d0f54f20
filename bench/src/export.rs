//! The export of a tenant that is stopped, from the request until its last byte, beside `tar | zstd` of the same files.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use testkit::engine::TenantContainer;
use testkit::{Client, Installation};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::figure::{Environment, Figure};
use crate::fixture::{ContainerStatus, Fixture, IdlePolicy};
use crate::tenant::{FILES, mounted};
use crate::{Measured, now};

const SLUG: &str = "exported";
/// The size of each file.
const FILE_BYTES: usize = 10_000_000;
/// The level of an export.
const LEVEL: &str = "-3";
/// A frame that zstd ignores marks the end of a whole export; after it comes the end of the response.
const END: &[u8] = b"cial\r\n0\r\n\r\n";
const BAR: f64 = 0.8;

/// One export, and one run of `tar | zstd`.
struct Pair {
    export: Duration,
    tar: Duration,
}

/// Measures in an installation that is ready and has no owner yet.
pub(crate) async fn measure(
    installation: &Installation,
    times: usize,
    megabytes: usize,
) -> Result<Measured> {
    let count = megabytes * 1_000_000 / FILE_BYTES;
    ensure!(count >= 2, "--megabytes must be 20 at least");
    let fixture = Fixture::open(installation).await?;
    let environment = Environment::look(&fixture.docker).await?.and("megabytes", megabytes);
    let tenant = fixture.tenant(SLUG, IdlePolicy::NEVER).await?;
    let container = TenantContainer::existing(&fixture.docker, &tenant.container);
    let folder = mounted(&container, FILES).await?;
    fill(&folder, count).context("run this as root on the engine's machine")?;
    let mut owner = fixture.owner().clone();
    let path = format!("/v1/tenants/{SLUG}/stop");
    let stopped = owner.post(&path, &json!({})).await?;
    ensure!(stopped.status < 300, "cannot stop the tenant: {}", stopped.summary());
    fixture.all(&[tenant], ContainerStatus::Exited).await?;
    let mut pairs = Vec::with_capacity(times);
    // The first pair pays for cold caches and is dropped.
    for number in 0..=times {
        let before = if number % 2 == 1 { Some(run_tar(&folder)?) } else { None };
        let export = run_export(&owner, installation.admin_port).await?;
        let tar = match before {
            Some(tar) => tar,
            None => run_tar(&folder)?,
        };
        if number > 0 {
            pairs.push(Pair { export, tar });
        }
    }
    Ok((environment, figures(&pairs, (count * FILE_BYTES) as f64 / 1e6)))
}

fn figures(pairs: &[Pair], megabytes: f64) -> Vec<Figure> {
    let rates = |of: fn(&Pair) -> Duration| {
        pairs.iter().map(|pair| megabytes / of(pair).as_secs_f64()).collect::<Vec<_>>()
    };
    let (export, tar) = (rates(|pair| pair.export), rates(|pair| pair.tar));
    let ratios: Vec<_> = export.iter().zip(&tar).map(|(export, tar)| export / tar).collect();
    vec![
        Figure::median("export", &export, "MB/s"),
        Figure::median("tar | zstd", &tar, "MB/s"),
        Figure::median("export / tar | zstd, throughput", &ratios, "").at_least(BAR),
    ]
}

/// Writes files of the tenant's user: half of them random, and half of them a log.
fn fill(folder: &Path, count: usize) -> Result<()> {
    let owner = fs::metadata(folder)?;
    for number in 0..count {
        let path = folder.join(format!("file-{number}"));
        let mut file = File::create(&path)?;
        if number % 2 == 0 {
            let mut random = File::open("/dev/urandom")?.take(FILE_BYTES as u64);
            std::io::copy(&mut random, &mut file)?;
        } else {
            file.write_all(&log(number, FILE_BYTES))?;
        }
        // No round pays for the disk's writes.
        file.sync_all()?;
        chown(&path, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

/// Lines of a log, as compressible as one of requests.
fn log(number: usize, bytes: usize) -> Vec<u8> {
    let mut text = String::with_capacity(bytes + 128);
    for line in 0_usize.. {
        if text.len() >= bytes {
            break;
        }
        let (order, milliseconds) = (line * 7_919 % 10_007, line * 31 % 997);
        text.push_str(&format!(
            "2026-12-01T00:00:00Z INFO request served file={number} line={line} path=/orders/{order} status=200 duration_ms={milliseconds}\n"
        ));
    }
    text.truncate(bytes);
    text.into_bytes()
}

async fn run_export(owner: &Client, port: u16) -> Result<Duration> {
    let request = owner.request("GET", &format!("/v1/tenants/{SLUG}/export"), None);
    let start = now();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(&request).await?;
    let mut buffer = vec![0; 256 << 10];
    let (mut first, mut last) = (Vec::new(), Vec::new());
    loop {
        let length = stream.read(&mut buffer).await?;
        let bytes = &buffer[..length];
        if bytes.is_empty() {
            break;
        }
        if first.is_empty() {
            first = bytes.to_vec();
        }
        last.extend_from_slice(&bytes[length.saturating_sub(END.len())..]);
        last.drain(..last.len().saturating_sub(END.len()));
    }
    let elapsed = start.elapsed();
    let first: String = String::from_utf8_lossy(&first).chars().take(1_000).collect();
    ensure!(first.starts_with("HTTP/1.1 200 "), "cannot export: {first}");
    ensure!(last == END, "the export broke off");
    Ok(elapsed)
}

fn run_tar(folder: &Path) -> Result<Duration> {
    let start = now();
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(folder).args(["-cf", "-", "."]).stdout(Stdio::piped());
    let mut tar = tar.spawn().context("cannot run tar")?;
    let mut zstd = Command::new("zstd");
    zstd.args(["-q", "-T1", LEVEL, "-c"]).stdin(tar.stdout.take().context("a pipe")?);
    let zstd = zstd.stdout(Stdio::null()).status().context("cannot run zstd");
    let tar = tar.wait()?;
    let (elapsed, zstd) = (start.elapsed(), zstd?);
    ensure!(tar.success() && zstd.success(), "tar: {tar}, zstd: {zstd}");
    Ok(elapsed)
}

#[cfg(test)]
mod tests {
    use testkit::TempDir;

    use super::*;

    #[test]
    fn the_throughput_of_pairs_is_compared() {
        let pair = |export, tar| Pair {
            export: Duration::from_secs(export),
            tar: Duration::from_secs(tar),
        };
        let good = figures(&[pair(5, 4), pair(10, 4), pair(4, 4)], 1_000.0);
        let values: Vec<_> = good.iter().map(|figure| figure.value).collect();
        assert_eq!(values, [200.0, 250.0, 0.8]);
        assert!(good.iter().all(Figure::holds), "{good:?}");
        assert!(!figures(&[pair(6, 4)], 1_000.0)[2].holds());
    }

    #[test]
    fn files_of_both_kinds_are_packed() {
        let folder = TempDir::new("bench-export").unwrap();
        fill(folder.path(), 2).unwrap();
        let lengths =
            ["file-0", "file-1"].map(|name| fs::metadata(folder.path().join(name)).unwrap().len());
        assert_eq!(lengths, [FILE_BYTES as u64; 2]);
        assert!(run_tar(folder.path()).unwrap() > Duration::ZERO);
        assert!(run_tar(&folder.path().join("absent")).is_err());
    }
}
