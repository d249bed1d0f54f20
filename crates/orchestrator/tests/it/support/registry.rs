//! Registries that fail, and the images that were pulled.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use bollard::Docker as Client;
use bollard::errors::Error;
use bollard::query_parameters::{ListImagesOptionsBuilder, RemoveImageOptions};
use protocol::InstallName;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;

use super::Install;

/// The end of a connection after a number of response bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    BreaksOff,
    FallsSilent,
}

/// A way to a registry that cuts long responses.
pub(crate) struct CutOff {
    pub(crate) address: SocketAddr,
    /// The connections that were cut and whose client has not left.
    cut: watch::Receiver<usize>,
    /// Whether silent connections go on.
    resumed: watch::Sender<bool>,
}

impl CutOff {
    pub(crate) async fn new(registry: SocketAddr, bytes: usize, then: Then) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (count, cut) = watch::channel(0);
        let (resumed, resume) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let limit = Limit { bytes, then, cut: count.clone(), resume: resume.clone() };
                tokio::spawn(limit.serve(client, registry));
            }
        });
        Self { address, cut, resumed }
    }

    /// Lets silent connections go on. The engine reads on where it had to wait, and only then notices that nobody wants it.
    pub(crate) fn resume(&self) {
        self.resumed.send_replace(true);
    }

    pub(crate) async fn until_cut(&self, connections: usize) {
        let mut cut = self.cut.clone();
        let reached = cut.wait_for(|count| *count == connections);
        tokio::time::timeout(super::PATIENCE, reached).await.expect("in time").unwrap();
    }
}

struct Limit {
    bytes: usize,
    then: Then,
    cut: watch::Sender<usize>,
    resume: watch::Receiver<bool>,
}

impl Limit {
    async fn serve(mut self, client: TcpStream, registry: SocketAddr) {
        let Ok(upstream) = TcpStream::connect(registry).await else { return };
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_registry, mut to_registry) = upstream.into_split();
        let was_cut = AtomicBool::new(false);
        let requests = tokio::io::copy(&mut from_client, &mut to_registry);
        let responses = async {
            let mut limited = (&mut from_registry).take(self.bytes as u64);
            let _ = tokio::io::copy(&mut limited, &mut to_client).await;
            match self.then {
                Then::FallsSilent => {
                    was_cut.store(true, Ordering::Relaxed);
                    self.cut.send_modify(|count| *count += 1);
                    let _ = self.resume.wait_for(|resumed| *resumed).await;
                    let _ = tokio::io::copy(&mut from_registry, &mut to_client).await;
                    // The client has the last word.
                    std::future::pending::<()>().await;
                }
                Then::BreaksOff => {
                    let _ = to_client.shutdown().await;
                }
            }
        };
        tokio::select! {
            _ = requests => {}
            () = responses => {}
        }
        if was_cut.load(Ordering::Relaxed) {
            self.cut.send_modify(|count| *count -= 1);
        }
    }
}

/// A way to the engine on which the first removal of an image waits.
pub(crate) struct SlowRemoval {
    pub(crate) path: PathBuf,
    stalled: watch::Receiver<bool>,
    resumed: watch::Sender<bool>,
}

impl SlowRemoval {
    pub(crate) fn new(install: &Install) -> Self {
        let path = install.base.join("slow.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (stall, stalled) = watch::channel(false);
        let (resumed, resume) = watch::channel(false);
        let engine = install.socket.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let engine = UnixStream::connect(&engine).await.unwrap();
                tokio::spawn(pass(client, engine, stall.clone(), resume.clone()));
            }
        });
        Self { path, stalled, resumed }
    }

    pub(crate) async fn until_stalled(&self) {
        let mut stalled = self.stalled.clone();
        let reached = stalled.wait_for(|stalled| *stalled);
        tokio::time::timeout(super::PATIENCE, reached).await.expect("in time").unwrap();
    }

    pub(crate) fn resume(&self) {
        self.resumed.send_replace(true);
    }
}

async fn pass(
    client: UnixStream,
    engine: UnixStream,
    stall: watch::Sender<bool>,
    mut resume: watch::Receiver<bool>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_engine, mut to_engine) = engine.into_split();
    let requests = async {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            let piece = &buffer[..length];
            let is_removal = piece.starts_with(b"DELETE ")
                && String::from_utf8_lossy(piece).contains("/images/");
            if is_removal && !stall.send_replace(true) {
                let _ = resume.wait_for(|resumed| *resumed).await;
            }
            if to_engine.write_all(piece).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        _ = tokio::io::copy(&mut from_engine, &mut to_client) => {}
    }
}

/// A response without a body for `HEAD`.
pub(crate) fn response(request: &str, status: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let body = if request.starts_with("HEAD ") { &[][..] } else { body };
    [head.as_bytes(), body].concat()
}

/// Serves one image of one layer without files, for machines of `architecture`, under every name; no content is checked
/// against what is asked for.
pub(crate) fn image_for(architecture: &str) -> impl FnMut(&str) -> Vec<u8> + Send + 'static {
    let digest = |bytes: &[u8]| {
        let digits = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
        format!("sha256:{digits}")
    };
    let layer = vec![0; 1024];
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux", "config": { "Cmd": ["/bin/notes"] },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    });
    let config = config.to_string().into_bytes();
    const KIND: &str = "application/vnd.docker.distribution.manifest.v2+json";
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": KIND,
        "config": { "mediaType": "application/vnd.docker.container.image.v1+json", "size": config.len(), "digest": digest(&config) },
        "layers": [{ "mediaType": "application/vnd.docker.image.rootfs.diff.tar", "size": layer.len(), "digest": digest(&layer) }],
    });
    let manifest = manifest.to_string().into_bytes();
    let (layer_digest, manifest_digest) = (digest(&layer), digest(&manifest));
    move |request| {
        let path = request.split(' ').nth(1).unwrap_or_default();
        let binary = "application/octet-stream";
        if path.contains("/manifests/") {
            let kind = format!("{KIND}\r\ndocker-content-digest: {manifest_digest}");
            response(request, "200 OK", &kind, &manifest)
        } else if path.ends_with(&layer_digest) {
            response(request, "200 OK", binary, &layer)
        } else if path.contains("/blobs/") {
            response(request, "200 OK", binary, &config)
        } else {
            response(request, "200 OK", "application/json", b"{}")
        }
    }
}

/// An address of this machine that is not of loopback: there the engine insists on TLS. No packet is sent.
pub(crate) fn outer_address() -> IpAddr {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect(("192.0.2.1", 9)).expect("this test needs a network besides loopback");
    socket.local_addr().unwrap().ip()
}

/// All names of the images that the installation pulled: ours, and those of the registry.
pub(crate) async fn pulled_names(docker: &Client, install: &InstallName) -> BTreeSet<String> {
    let is_ours = format!("cial-pulled-{install}/");
    let options = ListImagesOptionsBuilder::default().digests(true).build();
    let images = docker.list_images(Some(options)).await.unwrap_or_default().into_iter();
    let pulled =
        images.filter(|image| image.repo_tags.iter().any(|name| name.starts_with(&is_ours)));
    pulled.flat_map(|image| image.repo_tags.into_iter().chain(image.repo_digests)).collect()
}

/// The names of images of a registry.
pub(crate) async fn names_of(docker: &Client, host: &str) -> BTreeSet<String> {
    let options = ListImagesOptionsBuilder::default().digests(true).build();
    let images = docker.list_images(Some(options)).await.unwrap().into_iter();
    let names = images.flat_map(|image| image.repo_tags.into_iter().chain(image.repo_digests));
    names.filter(|name| name.starts_with(&format!("{host}/"))).collect()
}

pub(crate) async fn remove_name(docker: &Client, name: &str) -> Result<(), Error> {
    docker.remove_image(name, None::<RemoveImageOptions>, None).await.map(drop)
}
