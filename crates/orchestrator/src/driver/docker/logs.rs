//! A tenant's output as plain text: demultiplexed, without escape sequences.

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
            .tail(&tail)
            .build();
        let mut plain = PlainTextFilter::default();
        let lines = client.logs(&name, Some(options)).map(move |piece| {
            let piece = piece.map_err(std::io::Error::other)?;
            Ok(Bytes::from(plain.take(&piece.into_bytes())))
        });
        Ok(lines.boxed())
    }
}
