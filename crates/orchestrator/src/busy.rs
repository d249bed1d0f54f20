//! Asks a tenant over its own socket what keeps it busy. Nothing that it answers is trusted further than to keep
//! itself awake.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use nix::libc;
use protocol::busy::{BusyList, is_printable};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// No answer within this is an answer.
pub const PATIENCE: Duration = Duration::from_millis(200);

const REQUEST: &[u8] = b"GET /busy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
/// Far more than a tenant may declare.
const MOST: u64 = 256 << 10;

/// `Err`: why there is no answer, in words that end a sentence.
pub async fn ask(socket: &Path) -> Result<BusyList, String> {
    match tokio::time::timeout(PATIENCE, asked(socket)).await {
        Ok(Ok(answer)) => read(&answer),
        Ok(Err(error)) => Err(why(&error)),
        Err(_) => Err(format!("nothing came within {} ms", PATIENCE.as_millis())),
    }
}

fn why(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound {
        return "its image is of before it could be asked".to_owned();
    }
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return "nobody answers there".to_owned();
    }
    error.to_string()
}

async fn asked(socket: &Path) -> io::Result<Vec<u8>> {
    // The directory is the tenant's: a link put in the socket's place must not lead us to anybody else's.
    let place = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(socket)?;
    if !place.metadata()?.file_type().is_socket() {
        return Err(io::Error::other("what lies there is no socket"));
    }
    let mut stream = UnixStream::connect(format!("/proc/self/fd/{}", place.as_raw_fd())).await?;
    stream.write_all(REQUEST).await?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn read(answer: &[u8]) -> Result<BusyList, String> {
    let unreadable = || "what came cannot be read".to_owned();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(unreadable)?;
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err(unreadable());
    }
    let list = serde_json::from_slice(&answer[end + 4..]).map_err(|_| unreadable())?;
    Ok(bounded(list))
}

/// What lasts longest, in words that fit where they are shown.
fn bounded(BusyList { mut busy }: BusyList) -> BusyList {
    const ENTRIES: usize = 32;
    const REASON: usize = 200;
    busy.sort_by_key(|busy| std::cmp::Reverse(busy.until));
    busy.truncate(ENTRIES);
    for busy in &mut busy {
        busy.reason = busy.reason.chars().filter(|c| is_printable(*c)).take(REASON).collect();
    }
    BusyList { busy }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::busy::{Busy, BusyOwner};
    use std::path::PathBuf;
    use tokio::net::UnixListener;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("cial-busy-{}", uuid::Uuid::now_v7()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// One that answers each caller with `text`; an empty one answers nobody.
    fn tenant(path: &Path, text: &'static str) {
        let listener = UnixListener::bind(path).unwrap();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                if text.is_empty() {
                    held.push(stream);
                    continue;
                }
                let mut head = [0; REQUEST.len()];
                stream.read_exact(&mut head).await.unwrap();
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        });
    }

    #[tokio::test]
    async fn what_it_says_is_heard_and_anything_else_is_no_answer() {
        let folder = Folder::new();
        let busy = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"busy\":[{\"reason\":\"backup\",\"owner\":\"core\",\"until\":\"2026-11-22T12:00:00Z\"}]}";
        let table = [
            ("busy", busy, Ok(1)),
            ("idle", "HTTP/1.1 200 OK\r\n\r\n{\"busy\":[]}", Ok(0)),
            ("error", "HTTP/1.1 500 Oh\r\n\r\n{\"busy\":[]}", Err("what came cannot be read")),
            ("other", "HTTP/1.1 200 OK\r\n\r\n<html>", Err("what came cannot be read")),
            ("cut", "HTTP/1.1 200", Err("what came cannot be read")),
            ("mute", "", Err("nothing came within 200 ms")),
        ];
        for (name, text, expected) in table {
            let path = folder.0.join(name);
            tenant(&path, text);
            let heard = ask(&path).await.map(|list| list.busy.len());
            assert_eq!(heard, expected.map_err(str::to_owned), "{name}");
        }
        assert!(ask(&folder.0.join("nobody")).await.is_err());
    }

    #[test]
    fn nobody_fills_our_memory_or_pages_with_reasons() {
        let busy = |until: i64| Busy {
            reason: "\u{1b}[31m\u{202e}".to_owned() + &"x".repeat(300),
            owner: BusyOwner::Agent,
            until: chrono::DateTime::from_timestamp(until, 0).unwrap(),
        };
        let list = bounded(BusyList { busy: (0..100).map(busy).collect() });
        assert_eq!((list.busy.len(), list.busy[0].until.timestamp()), (32, 99));
        assert!(list.busy[0].reason.starts_with("[31mx"));
        assert_eq!(list.busy[0].reason.len(), 200);
    }

    #[tokio::test]
    async fn a_link_to_another_socket_is_not_followed() {
        let folder = Folder::new();
        let (theirs, link) = (folder.0.join("theirs"), folder.0.join("link"));
        tenant(&theirs, "HTTP/1.1 200 OK\r\n\r\n{\"busy\":[]}");
        std::os::unix::fs::symlink(&theirs, &link).unwrap();
        assert_eq!(ask(&link).await, Err("what lies there is no socket".to_owned()));
        assert!(ask(&theirs).await.is_ok());
    }
}
