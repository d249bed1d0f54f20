//! The store of archives: a folder, or a bucket. What fails or breaks off leaves nothing under the name of an archive.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use hyper_rustls::ConfigBuilderExt as _;
use opendal::layers::{RetryLayer, TimeoutLayer};
use opendal::services::{Fs, S3};
use opendal::{ErrorKind, HttpTransporter, OperationContext, Operator};
use opendal_http_transport_reqwest::ReqwestTransport;
use sha2::{Digest as _, Sha256};

use super::settings::{AccessKey, S3Place, StoreSettings};
use crate::disk_reserve;

pub use opendal::Error as StoreError;

/// The bytes of a part of an upload, of which one lies in memory. S3 takes 10,000 parts: 80 GB.
const PART_BYTES: usize = 8 << 20;
/// Bounds each call that moves no archive.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Bounds each attempt to write or read a part.
const PART_TIMEOUT: Duration = Duration::from_secs(25);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_RETRIES: usize = 1;
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// After a minute the orchestrator ends an export that nobody reads, and an import ends a body that stands still. The store's own
/// error must come first.
const _: () = assert!(
    (MAX_RETRIES as u64 + 1) * PART_TIMEOUT.as_secs() + MAX_RETRIES as u64 * RETRY_DELAY.as_secs()
        < 60
);
/// Where a folder keeps what is being written, below itself.
const PARTS: &str = ".parts";

pub struct Store {
    archives: Operator,
    disk: Option<Disk>,
    /// The unfinished archives of a folder. A bucket shows no object before its upload is complete.
    parts: Option<Operator>,
}

/// The disk of a folder.
struct Disk {
    folder: PathBuf,
    reserve: u64,
}

impl Disk {
    /// # Errors
    /// [`WriteError::NoRoom`].
    async fn check(&self) -> Result<(), WriteError> {
        let folder = self.folder.clone();
        // A network file system may be slow.
        let stat = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&folder)).await;
        match stat {
            Ok(Ok(stat)) if disk_reserve::is_reached(&stat, self.reserve) => {
                Err(WriteError::NoRoom)
            }
            // The first archive makes the folder. The write itself says what else is wrong.
            _ => Ok(()),
        }
    }
}

/// An archive that was written.
#[derive(Debug)]
pub struct Written {
    pub bytes: u64,
    pub sha256: Vec<u8>,
}

/// Why nothing was written.
#[derive(Debug)]
pub enum WriteError {
    /// The archive broke off.
    Source(anyhow::Error),
    /// The disk of the folder has less left than its reserve.
    NoRoom,
    Store(StoreError),
}

impl From<StoreError> for WriteError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Why an archive was not read to its end.
#[derive(Debug)]
pub enum ReadError {
    WrongChecksum,
    Store(StoreError),
}

/// The error that ended a body, once it has ended.
#[derive(Clone, Default)]
pub struct FailedRead(Arc<Mutex<Option<ReadError>>>);

impl FailedRead {
    pub fn take(&self) -> Option<ReadError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, error: ReadError) -> io::Error {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        io::ErrorKind::InvalidData.into()
    }
}

impl Store {
    /// Calls nobody.
    ///
    /// # Errors
    /// The settings cannot be used.
    pub fn open(settings: &StoreSettings) -> anyhow::Result<Self> {
        match settings {
            StoreSettings::Folder(folder) => Self::folder(folder, disk_reserve::RESERVE_BYTES),
            StoreSettings::S3 { place, key } => Self::bucket(place, key),
        }
    }

    /// A folder on a disk of which `reserve` bytes must stay free.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn folder(folder: &Path, reserve: u64) -> anyhow::Result<Self> {
        let (root, parts) =
            (folder.display().to_string(), folder.join(PARTS).display().to_string());
        let archives = Fs::default().root(&root).atomic_write_dir(&parts);
        let parts = with_layers(Operator::new(Fs::default().root(&parts))?);
        let disk = Some(Disk { folder: folder.to_owned(), reserve });
        Ok(Self { archives: with_layers(Operator::new(archives)?), disk, parts: Some(parts) })
    }

    fn bucket(place: &S3Place, key: &AccessKey) -> anyhow::Result<Self> {
        // Nothing but the settings says who calls: no file, no environment and no server of a cloud.
        let mut bucket = S3::default()
            .bucket(&place.bucket)
            .root(&place.prefix)
            .region(&place.region)
            .access_key_id(&key.id)
            .secret_access_key(key.secret.reveal())
            .disable_config_load()
            .disable_ec2_metadata();
        if let Some(endpoint) = &place.endpoint {
            bucket = bucket.endpoint(endpoint);
        }
        let is_plain = place.endpoint.as_ref().is_some_and(|url| url.starts_with("http:"));
        let context = OperationContext::new().with_http_transport(http_transport(!is_plain)?);
        let archives = Operator::new(bucket)?.with_context(context);
        Ok(Self { archives: with_layers(archives), disk: None, parts: None })
    }

    /// Writes an archive under a name that was never used. It is whole, or not there.
    ///
    /// # Errors
    /// [`WriteError`]. Nothing is left, unless the store does not even let that be taken back.
    pub async fn write(
        &self,
        name: &str,
        pieces: impl Stream<Item = anyhow::Result<Bytes>> + Send,
    ) -> Result<Written, WriteError> {
        self.check_room().await?;
        let mut writer = self.archives.writer_with(name).chunk(PART_BYTES).await?;
        let (mut hash, mut bytes, mut checked) = (Sha256::new(), 0, 0);
        let mut pieces = std::pin::pin!(pieces);
        let written = async {
            while let Some(piece) = pieces.next().await {
                let piece = piece.map_err(WriteError::Source)?;
                hash.update(&piece);
                bytes += piece.len() as u64;
                if bytes - checked > PART_BYTES as u64 {
                    self.check_room().await?;
                    checked = bytes;
                }
                writer.write(piece).await?;
            }
            writer.close().await?;
            Ok(())
        };
        if let Err(error) = written.await {
            if let Err(left) = writer.abort().await {
                tracing::warn!(name, error = %left, "an unfinished archive may be left in the store");
            }
            return Err(error);
        }
        Ok(Written { bytes, sha256: hash.finalize().to_vec() })
    }

    async fn check_room(&self) -> Result<(), WriteError> {
        match &self.disk {
            Some(disk) => disk.check().await,
            None => Ok(()),
        }
    }

    /// Reads an archive as a body, which breaks off before its end unless its checksum is this one.
    ///
    /// # Errors
    /// The store's own.
    pub async fn read(&self, name: &str, sha256: &[u8]) -> Result<(Body, FailedRead), StoreError> {
        let reader = self.archives.reader_with(name).chunk(PART_BYTES).await?;
        let pieces = reader.into_bytes_stream(..).await?;
        let (failed, expected) = (FailedRead::default(), sha256.to_vec());
        let begin = (pieces, Sha256::new(), failed.clone());
        let checked = stream::try_unfold(begin, move |(mut pieces, mut hash, failed)| {
            let expected = expected.clone();
            async move {
                match pieces.try_next().await {
                    Ok(Some(piece)) => {
                        hash.update(&piece);
                        Ok(Some((piece, (pieces, hash, failed))))
                    }
                    Ok(None) if hash.finalize().as_slice() == expected => Ok(None),
                    Ok(None) => Err(failed.set(ReadError::WrongChecksum)),
                    Err(error) => {
                        let error = StoreError::new(ErrorKind::Unexpected, error.to_string());
                        Err(failed.set(ReadError::Store(error)))
                    }
                }
            }
        });
        Ok((Body::from_stream(checked), failed))
    }

    /// The bytes of an archive; `None` for one that is not there.
    ///
    /// # Errors
    /// The store's own.
    pub async fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        match self.archives.stat(name).await {
            Ok(facts) => Ok(Some(facts.content_length())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes an archive, and what an attempt to write it has left. One that is not there is as good as deleted.
    ///
    /// # Errors
    /// The store's own.
    pub async fn remove(&self, name: &str) -> Result<(), StoreError> {
        self.archives.delete(name).await?;
        let Some(parts) = &self.parts else { return Ok(()) };
        let file = name.rsplit('/').next().unwrap_or(name);
        for part in list(parts, usize::MAX).await?.into_keys() {
            if part.rsplit('/').next().is_some_and(|part| part.starts_with(file)) {
                parts.delete(&part).await?;
            }
        }
        Ok(())
    }

    /// The names and sizes of all archives.
    ///
    /// # Errors
    /// The store's own, and that it holds more than `most` objects: one that lists without end must not fill the memory.
    pub async fn list(&self, most: usize) -> Result<BTreeMap<String, u64>, StoreError> {
        let mut found = list(&self.archives, most).await?;
        found.retain(|name, _| !name.starts_with(PARTS));
        Ok(found)
    }
}

async fn list(operator: &Operator, most: usize) -> Result<BTreeMap<String, u64>, StoreError> {
    let (mut found, mut left) = (BTreeMap::new(), most);
    let mut entries = operator.lister_with("").recursive(true).await?;
    while let Some(entry) = entries.try_next().await? {
        left = left.checked_sub(1).ok_or_else(|| {
            let text = format!("the store lists more than {most} objects");
            StoreError::new(ErrorKind::Unexpected, text)
        })?;
        if entry.metadata().is_file() {
            found.insert(entry.path().to_owned(), entry.metadata().content_length());
        }
    }
    Ok(found)
}

/// The installation's own TLS and the public roots. No proxy of the environment and no redirect of the store: the settings say where
/// archives go.
fn http_transport(https_only: bool) -> anyhow::Result<HttpTransporter> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_webpki_roots()
        .with_no_client_auth();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .https_only(https_only)
        .connect_timeout(CONNECT_TIMEOUT)
        .build()?;
    Ok(HttpTransporter::new(ReqwestTransport::new(client)))
}

fn with_layers(operator: Operator) -> Operator {
    let timeouts = TimeoutLayer::default().with_timeout(CALL_TIMEOUT).with_io_timeout(PART_TIMEOUT);
    let retries = RetryLayer::default().with_max_times(MAX_RETRIES).with_min_delay(RETRY_DELAY);
    operator.layer(timeouts).layer(retries)
}
