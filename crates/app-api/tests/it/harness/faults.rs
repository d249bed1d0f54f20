//! A link to Postgres that breaks off before the nth message of the client, the start of the session not counted.

use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::AbortHandle;

pub(crate) struct BreakingLink {
    directory: tempfile::TempDir,
    accepting: AbortHandle,
}

impl BreakingLink {
    /// A link to the server with its socket in `data`.
    pub(crate) fn before(nth: usize, data: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket_in(directory.path())).unwrap();
        let server = socket_in(data);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&server).await.unwrap();
                tokio::spawn(forward(client, server, nth));
            }
        });
        Self { directory, accepting: accepting.abort_handle() }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for BreakingLink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn socket_in(directory: &Path) -> PathBuf {
    directory.join(".s.PGSQL.5432")
}

/// Ends with either connection, and with both once the nth message would leave.
async fn forward(client: UnixStream, server: UnixStream, nth: usize) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async {
        let startup = from_client.read_u32().await?;
        pass(&mut from_client, &mut to_server, None, startup).await?;
        for _ in 1..nth {
            let kind = from_client.read_u8().await?;
            let length = from_client.read_u32().await?;
            pass(&mut from_client, &mut to_server, Some(kind), length).await?;
        }
        from_client.read_u8().await.map(drop)
    };
    tokio::select! {
        _ = requests => {}
        _ = copy(&mut from_server, &mut to_client) => {}
    }
}

/// Passes one message on. Its length counts itself.
async fn pass(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    kind: Option<u8>,
    length: u32,
) -> std::io::Result<()> {
    let mut message: Vec<u8> = kind.into_iter().collect();
    message.extend(length.to_be_bytes());
    let head = message.len();
    message.resize(head + length as usize - 4, 0);
    from.read_exact(&mut message[head..]).await?;
    to.write_all(&message).await
}
