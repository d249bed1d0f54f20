//! The store of backups, in a folder and in a bucket of a real server.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use app_api::backups::settings::{AccessKey, S3Place, StoreSettings};
use app_api::backups::store::{ReadError, Store, WriteError};
use axum::body::to_bytes;
use bytes::Bytes;
use futures_util::stream;
use sha2::Digest as _;
use tempfile::TempDir;
use testkit::{eventually, wait_for};

use crate::harness::{TEST_TIMEOUT, TestClient};
use crate::transfers::noise;

const BUCKET: &str = "cial-backups";
const SECRET: &str = "hunter2hunter2";
/// Larger than one part of an upload.
const LARGE: usize = 20 << 20;

/// SeaweedFS on free ports of the loopback.
struct S3Server {
    process: Child,
    folder: TempDir,
    port: u16,
    files_port: u16,
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

impl S3Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identities = serde_json::json!({ "identities": [{
            "name": "cial",
            "credentials": [{ "accessKey": "cial", "secretKey": SECRET }],
            "actions": ["Admin", "Read", "Write", "List"],
        }] });
        let config = folder.path().join("s3.json");
        std::fs::write(&config, identities.to_string()).unwrap();
        let [master, master_grpc, volume, volume_grpc, files, files_grpc, s3, s3_grpc] =
            free_ports();
        let mut command = Command::new("weed");
        // It would call its maker, and listen on fixed ports.
        command.args([
            "server",
            "-master.telemetry=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]);
        command.args([
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-s3",
            "-s3.iam=false",
            "-volume.max=8",
        ]);
        let path = folder.path().display();
        command.arg(format!("-dir={path}")).arg(format!("-filer.localSocket={path}/filer.sock"));
        command.arg(format!("-s3.config={}", config.display()));
        for (name, port) in [
            ("master.port", master),
            ("master.port.grpc", master_grpc),
            ("volume.port", volume),
            ("volume.port.grpc", volume_grpc),
            ("filer.port", files),
            ("filer.port.grpc", files_grpc),
            ("s3.port", s3),
            ("s3.port.grpc", s3_grpc),
        ] {
            command.arg(format!("-{name}={port}"));
        }
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        command.current_dir(folder.path()).stdout(Stdio::null()).stderr(log);
        let process = command.spawn().expect("run scripts/install-tools, which installs weed");
        let server = Self { process, folder, port: s3, files_port: files };
        let store = server.store(SECRET);
        let ready = eventually("the S3 server responds", TEST_TIMEOUT, async || {
            Ok(store.write("ready", pieces(b"x")).await.is_ok())
        });
        if let Err(error) = ready.await {
            let log = std::fs::read_to_string(server.folder.path().join("log")).unwrap_or_default();
            panic!("{error:#}: {log}");
        }
        store.remove("ready").await.unwrap();
        server
    }

    fn store(&self, secret: &str) -> Store {
        let place = S3Place {
            bucket: BUCKET.to_owned(),
            prefix: "/production".to_owned(),
            region: "us-east-1".to_owned(),
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
        };
        let key = AccessKey { id: "cial".to_owned(), secret: service::Secret::new(secret) };
        Store::open(&StoreSettings::S3 { place, key }).unwrap()
    }

    /// The uploads that are neither complete nor aborted, which no list of objects shows.
    async fn open_uploads(&self) -> usize {
        let client = TestClient::new(([127, 0, 0, 1], self.files_port).into());
        let path = format!("/buckets/{BUCKET}/.uploads/");
        let headers = [("accept", "application/json")];
        let listed = client.send(axum::http::Method::GET, &path, &headers, "").await;
        if listed.status == 404 {
            return 0;
        }
        assert_eq!(listed.status, 200, "{}", listed.text());
        listed.json()["Entries"].as_array().map_or(0, Vec::len)
    }
}

fn pieces(bytes: &[u8]) -> stream::Iter<std::vec::IntoIter<anyhow::Result<Bytes>>> {
    let pieces = bytes.chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece)));
    stream::iter(pieces.collect::<Vec<_>>())
}

/// The promises of every store.
async fn check_promises(store: &Store) {
    let content = noise(LARGE);
    let written = store.write("acme/one.tar.zst", pieces(&content)).await.unwrap();
    assert_eq!(written.bytes, content.len() as u64);
    assert_eq!(written.sha256, sha2::Sha256::digest(&content).to_vec());
    store.write("acme/two.tar.zst", pieces(b"short")).await.unwrap();
    let listed: Vec<_> = store.list(9).await.unwrap().into_iter().collect();
    let expected = [("acme/one.tar.zst", LARGE as u64), ("acme/two.tar.zst", 5)];
    assert_eq!(listed, expected.map(|(name, bytes)| (name.to_owned(), bytes)));
    assert_eq!(store.size("acme/one.tar.zst").await.unwrap(), Some(LARGE as u64));
    assert_eq!(store.size("acme/three.tar.zst").await.unwrap(), None);

    let (body, failed) = store.read("acme/one.tar.zst", &written.sha256).await.unwrap();
    assert!(to_bytes(body, usize::MAX).await.unwrap() == content);
    assert!(failed.take().is_none());
    let (body, failed) = store.read("acme/two.tar.zst", &written.sha256).await.unwrap();
    assert!(to_bytes(body, usize::MAX).await.is_err(), "another archive ends with an error");
    assert!(matches!(failed.take(), Some(ReadError::WrongChecksum)));

    let mut broken: Vec<_> =
        content.chunks(1 << 20).map(|p| Ok(Bytes::copy_from_slice(p))).collect();
    broken.push(Err(anyhow::anyhow!("it broke off")));
    let refused = store.write("acme/three.tar.zst", stream::iter(broken)).await;
    assert!(matches!(refused, Err(WriteError::Source(_))), "{refused:?}");
    assert_eq!(store.size("acme/three.tar.zst").await.unwrap(), None);
    assert!(store.list(1).await.is_err(), "one that lists too much is not listened to");
    assert_eq!(store.list(9).await.unwrap().len(), 2);

    store.remove("acme/one.tar.zst").await.unwrap();
    store.remove("acme/one.tar.zst").await.unwrap();
    let left: Vec<_> = store.list(9).await.unwrap().into_keys().collect();
    assert_eq!(left, ["acme/two.tar.zst"]);
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, mut files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    files.extend(folders.iter().flat_map(|folder| files_below(folder)));
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_keeps_archives() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&StoreSettings::Folder(folder.path().to_owned())).unwrap();
    assert!(store.list(9).await.unwrap().is_empty());
    check_promises(&store).await;
    assert_eq!(files_below(folder.path()), [folder.path().join("acme/two.tar.zst")]);
}

/// A killed process leaves files below the folder alone, and the next attempt removes them.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_was_killed_is_removed_by_the_name_of_its_archive() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&StoreSettings::Folder(folder.path().to_owned())).unwrap();
    for name in ["acme/one.tar.zst", "acme/other.tar.zst"] {
        let (sender, receiver) = tokio::sync::mpsc::channel::<anyhow::Result<Bytes>>(1);
        let unended =
            stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        let mut writing = std::pin::pin!(store.write(name, unended));
        let before = files_below(folder.path()).len();
        let begun = wait_for("a part is written", TEST_TIMEOUT, async || {
            let _ = sender.try_send(Ok(Bytes::from_static(&[7; 1 << 20])));
            let step = std::time::Duration::from_millis(1);
            let _ = tokio::time::timeout(step, &mut writing).await;
            Ok((files_below(folder.path()).len() > before).then_some(()))
        });
        begun.await.unwrap();
    }
    assert_eq!(files_below(folder.path()).len(), 2);
    assert!(store.list(9).await.unwrap().is_empty(), "nothing has the name of an archive");
    store.remove("acme/one.tar.zst").await.unwrap();
    assert_eq!(files_below(folder.path()).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_keeps_archives() {
    let server = S3Server::start().await;
    check_promises(&server.store(SECRET)).await;
    assert_eq!(server.open_uploads().await, 0, "an upload that broke off is aborted");
    let refused = server.store("another secret").write("acme/x.tar.zst", pieces(b"x")).await;
    assert!(matches!(refused, Err(WriteError::Store(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_keeps_its_reserve() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::folder(folder.path(), u64::MAX).unwrap();
    let refused = store.write("acme/one.tar.zst", pieces(b"x")).await;
    assert!(matches!(refused, Err(WriteError::NoRoom)), "{refused:?}");
    assert_eq!(files_below(folder.path()), [] as [PathBuf; 0]);
}

/// A bucket whose server was taken over sends nobody to the inner network.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_of_a_bucket_is_not_followed() {
    let inner = TcpListener::bind("127.0.0.1:0").unwrap();
    inner.set_nonblocking(true).unwrap();
    let target = inner.local_addr().unwrap();
    let redirect = move || async move {
        axum::response::Redirect::temporary(&format!("http://{target}/secret"))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = S3Place {
        bucket: BUCKET.to_owned(),
        prefix: "/production".to_owned(),
        region: "us-east-1".to_owned(),
        endpoint: Some(format!("http://{}", listener.local_addr().unwrap())),
    };
    let serving =
        tokio::spawn(
            async move { axum::serve(listener, axum::Router::new().fallback(redirect)).await },
        );
    let key = AccessKey { id: "cial".to_owned(), secret: service::Secret::new(SECRET) };
    let store = Store::open(&StoreSettings::S3 { place, key }).unwrap();
    assert!(store.size("acme/one.tar.zst").await.is_err());
    assert!(store.write("acme/one.tar.zst", pieces(b"x")).await.is_err());
    serving.abort();
    assert_eq!(inner.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}
