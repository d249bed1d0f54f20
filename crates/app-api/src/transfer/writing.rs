//! Writes an archive in a task of its own, so that a dump frees the server and the disk when its reader takes nothing.

use axum::body::{BodyDataStream, Bytes};
use futures_util::StreamExt as _;
use protocol::Slug;
use protocol::transfer::{EMPTY_FRAME, END_MARK};
use service::api_error::ApiError;
use tenant_archive::{Compressor, Exporter, Fault};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::dump::{Dump, Spool};
use super::export::{dump_failed, unreadable};
use super::refused;
use super::slots::{ExportSlot, ExportTimes};

/// The pieces that wait for a slower reader.
const BACKLOG: usize = 2;

/// A piece of the archive. An empty one is the end of a whole archive.
pub(super) type Piece = Result<Bytes, ApiError>;

/// An archive that is being written.
pub(super) struct Writing {
    pub(super) exporter: Exporter,
    pub(super) volumes: BodyDataStream,
    /// The schema, which follows the volumes.
    pub(super) database: Option<Database>,
    pub(super) times: ExportTimes,
    pub(super) slot: ExportSlot,
}

/// The schema of a tenant that is exported.
pub(super) enum Database {
    /// pg_dump still writes.
    Dumping(Box<Dump>),
    Dumped(Spool),
}

/// The reason why an archive breaks off.
enum Broken {
    Failed(ApiError),
    /// The reader left, took nothing for too long, or is too slow altogether.
    ReaderGone(&'static str),
}

impl<E: Into<ApiError>> From<E> for Broken {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Writing {
    /// Returns the pieces. The first one does not wait for the dump.
    pub(super) fn start(self, slug: Slug) -> mpsc::Receiver<Piece> {
        let (sender, pieces) = mpsc::channel(BACKLOG);
        tokio::spawn(async move {
            let times = self.times;
            let written = tokio::select! {
                written = self.write(&sender) => written,
                () = sender.closed() => Err(Broken::ReaderGone("its reader left")),
                () = sleep(times.whole) => Err(Broken::ReaderGone("it takes too long")),
            };
            match written {
                Ok(()) => {}
                Err(Broken::ReaderGone(why)) => {
                    tracing::warn!(%slug, error = why, "tenant export failed");
                }
                Err(Broken::Failed(error)) => {
                    // The receiver logs the error, or makes it the response.
                    let _ = timeout(times.stall, sender.send(Err(error))).await;
                }
            }
        });
        pieces
    }

    async fn write(self, sender: &mpsc::Sender<Piece>) -> Result<(), Broken> {
        let Self { mut exporter, mut volumes, database, times, slot } = self;
        let output = Output { sender, times };
        let mut compressor = Compressor::new()?;
        while let Some(bytes) = volumes.next().await {
            exporter.push_volumes(&bytes.map_err(unreadable)?).map_err(fault)?;
            output.send(compressor.compress(&exporter.take())?).await?;
        }
        exporter.end_volumes().map_err(fault)?;
        // The part is a frame of its own, because frames that keep the connection alive may follow.
        output.send(compressor.finish()?).await?;
        let mut compressor = Compressor::new()?;
        let mut spool = match database {
            Some(Database::Dumping(dump)) => Some(output.end_of(*dump).await?),
            Some(Database::Dumped(spool)) => Some(spool),
            None => None,
        };
        while let Some(some) = spool.take()
            && let Some((sql, rest)) = some.next_piece().await?
        {
            exporter.push_sql(&sql).map_err(fault)?;
            output.send(compressor.compress(&exporter.take())?).await?;
            spool = Some(rest);
        }
        exporter.finish().map_err(fault)?;
        let mut last = compressor.compress(&exporter.take())?;
        last.extend(compressor.finish()?);
        last.extend_from_slice(&END_MARK);
        output.send(last).await?;
        output.send_piece(Bytes::new()).await?;
        drop(slot);
        Ok(())
    }
}

struct Output<'a> {
    sender: &'a mpsc::Sender<Piece>,
    times: ExportTimes,
}

impl Output<'_> {
    async fn send(&self, bytes: Vec<u8>) -> Result<(), Broken> {
        if bytes.is_empty() { Ok(()) } else { self.send_piece(bytes.into()).await }
    }

    async fn send_piece(&self, piece: Bytes) -> Result<(), Broken> {
        match timeout(self.times.stall, self.sender.send(Ok(piece))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Broken::ReaderGone("its reader left")),
            Err(_) => Err(Broken::ReaderGone("its reader took nothing for too long")),
        }
    }

    /// Waits for the end of a dump, and keeps the connection alive: a proxy must not take the silence for a lost connection.
    async fn end_of(&self, mut dump: Dump) -> Result<Spool, Broken> {
        loop {
            match timeout(self.times.keep_alive, dump.end()).await {
                Ok(ended) => return ended.map_err(|error| dump_failed(error).into()),
                Err(_) => self.send(EMPTY_FRAME.to_vec()).await?,
            }
        }
    }
}

fn fault(fault: Fault) -> ApiError {
    match fault {
        Fault::TooLargeToExport { .. } | Fault::DatabaseTooLarge => refused(&fault),
        // The engine's tar is not what it should be.
        Fault::NotCompressed(_)
        | Fault::Corrupt(_)
        | Fault::UnknownFormat(_)
        | Fault::Unsafe { .. }
        | Fault::TooLarge { .. }
        | Fault::WrongChecksum => unreadable(fault),
    }
}
