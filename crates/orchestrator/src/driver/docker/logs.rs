//! A tenant's output as plain text: demultiplexed, without escape sequences.

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use bytes::Bytes;
use futures_util::StreamExt as _;
use protocol::TenantId;

use super::DockerDriver;
use super::container::labels_of;
use super::engine::{INSPECT_TIMEOUT, optional};
use crate::driver::{DriverError, LogOptions, LogStream};
use crate::plain_text::PlainTextFilter;

impl DockerDriver {
    pub(super) async fn read_logs(
        &self,
        id: TenantId,
        wanted: LogOptions,
    ) -> Result<LogStream, DriverError> {
        let client = self.engine.client().await?;
        let name = id.container();
        let container = optional(INSPECT_TIMEOUT, client.inspect_container(&name, None)).await?;
        let container = container.ok_or_else(|| DriverError::no_such_tenant(id))?;
        self.claim("container", &name, labels_of(&container), id)?;
        let tail = wanted.tail.map_or("all".to_owned(), |lines| lines.to_string());
        let since = i32::try_from(wanted.since.unwrap_or_default()).unwrap_or(i32::MAX);
        let options = LogsOptionsBuilder::default()
            .follow(wanted.follow)
            .stdout(true)
            .stderr(true)
            .since(since)
            .timestamps(wanted.timestamps)
            .tail(&tail)
            .build();
        let (mut plain, mut joiner) = (PlainTextFilter::default(), LineJoiner::default());
        let lines = client.logs(&name, Some(options)).map(move |piece| {
            let piece = piece.map_err(std::io::Error::other)?;
            let is_error = matches!(piece, LogOutput::StdErr { .. });
            let bytes = piece.into_bytes();
            let bytes = if wanted.timestamps { joiner.join(is_error, bytes) } else { bytes };
            Ok(Bytes::from(plain.take(&bytes)))
        });
        Ok(lines.boxed())
    }
}

/// The engine cuts a line of more than 16 KiB into pieces and writes a time in front of each. Only the time in front of
/// the line stays.
#[derive(Debug, Default)]
struct LineJoiner {
    /// For output and error output: whether the last piece was cut.
    is_open: [bool; 2],
}

impl LineJoiner {
    fn join(&mut self, is_error: bool, piece: Bytes) -> Bytes {
        let was_open =
            std::mem::replace(&mut self.is_open[usize::from(is_error)], !piece.ends_with(b"\n"));
        match piece.iter().position(|byte| *byte == b' ') {
            Some(end) if was_open => piece.slice(end + 1..),
            Some(_) | None => piece,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_the_engine_cut_has_one_time() {
        let mut joiner = LineJoiner::default();
        let pieces = [
            (false, "T1 long ", "T1 long "),
            (true, "T2 other\n", "T2 other\n"),
            (false, "T3 line\n", "line\n"),
            (false, "T4 next\n", "T4 next\n"),
        ];
        for (is_error, piece, joined) in pieces {
            assert_eq!(joiner.join(is_error, Bytes::from_static(piece.as_bytes())), joined);
        }
    }
}
