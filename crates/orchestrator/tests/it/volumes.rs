//! Export and import of volumes: what is kept, who waits, and that a failure leaves nothing.

use std::io;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use orchestrator::driver::{Driver as _, DriverErrorCode, VolumePiece, VolumeStream};
use protocol::TenantId;
use protocol::orchestrator::Phase;
use tar::{Archive, Builder, EntryType, Header};
use tokio::sync::mpsc;

use crate::support::simulation::{SHORT_DELAYS, Simulation};
use crate::support::{PATIENCE, apply, spec, with_install};
use crate::wire::Server;

const LIMIT: u64 = 1 << 30;

/// One entry as both sides see it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ArchiveEntry {
    path: String,
    kind: EntryType,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    link: String,
    content: Vec<u8>,
}

fn entry(path: &str, kind: EntryType, mode: u32, owner: u64) -> ArchiveEntry {
    let mtime = 1_700_000_000 + u64::from(mode);
    let (path, owner) = (path.to_owned(), (owner, owner));
    ArchiveEntry { path, kind, mode, owner, mtime, link: String::new(), content: Vec::new() }
}

/// Every kind of entry, in the order in which the engine sends them.
fn everything() -> Vec<ArchiveEntry> {
    use EntryType::{Directory, Link, Regular, Symlink};
    let mut sparse = vec![0; 3 << 20];
    sparse[2 << 20] = 1;
    let long = format!("files/{}", "n".repeat(200));
    vec![
        entry("data/", Directory, 0o700, 1000),
        ArchiveEntry { content: vec![7; 5_000], ..entry("data/history.db", Regular, 0o600, 1000) },
        entry("files/", Directory, 0o750, 1001),
        ArchiveEntry { content: b"hello".to_vec(), ..entry("files/a", Regular, 0o640, 1001) },
        entry("files/b-empty/", Directory, 0o2775, 1001),
        ArchiveEntry { link: "files/a".to_owned(), ..entry("files/c-link", Link, 0o640, 1001) },
        ArchiveEntry { owner: (1001, 1000), ..entry("files/d-group", Regular, 0o444, 1001) },
        ArchiveEntry { content: b"long".to_vec(), ..entry(&long, Regular, 0o644, 1001) },
        ArchiveEntry { content: sparse, ..entry("files/sparse", Regular, 0o600, 1001) },
        ArchiveEntry {
            link: "/usr/bin/python3".to_owned(),
            ..entry("files/symlink", Symlink, 0o777, 1001)
        },
        ArchiveEntry { content: b"u".to_vec(), ..entry("files/\u{fc}ml", Regular, 0o644, 1001) },
    ]
}

fn write(entries: &[ArchiveEntry]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0);
        header.set_gid(entry.owner.1);
        header.set_mtime(entry.mtime);
        header.set_size(entry.content.len() as u64);
        if entry.link.is_empty() {
            builder.append_data(&mut header, &entry.path, entry.content.as_slice()).unwrap();
        } else {
            builder.append_link(&mut header, &entry.path, &entry.link).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

/// Reads tars, one after the other.
fn read(tar: &[u8]) -> Vec<ArchiveEntry> {
    let mut archive = Archive::new(tar);
    archive.set_ignore_zeros(true);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        io::Read::read_to_end(&mut entry, &mut content).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let header = entry.header();
        ArchiveEntry {
            kind: header.entry_type(),
            // The engine adds the bits of the kind.
            mode: header.mode().unwrap() & 0o7777,
            owner: (header.uid().unwrap(), header.gid().unwrap()),
            mtime: header.mtime().unwrap(),
            path: text(&entry.path_bytes()),
            link: entry.link_name_bytes().map(|name| text(&name)).unwrap_or_default(),
            content,
        }
    });
    entries.collect()
}

fn pieces(tar: Vec<u8>) -> VolumeStream {
    let pieces: Vec<_> = tar.chunks(60_000).map(Bytes::copy_from_slice).map(Ok).collect();
    stream::iter(pieces).boxed()
}

/// The begin of a tar whose writer leaves.
fn broken(tar: &[u8]) -> VolumeStream {
    let begin = Bytes::copy_from_slice(&tar[..tar.len() / 2]);
    stream::iter([Ok(begin), Err(io::ErrorKind::ConnectionReset.into())]).boxed()
}

async fn collect(mut received: mpsc::Receiver<VolumePiece>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = received.recv().await {
        let piece = piece.unwrap();
        assert!(!piece.is_empty());
        bytes.extend(piece);
    }
    bytes
}

#[tokio::test]
async fn on_the_engine_volumes_come_back_as_they_were() {
    with_install(async |install| {
        let (driver, mut spec) = (install.driver(), spec("acme", ""));
        let read_all = async |id: TenantId| {
            let (sink, received) = mpsc::channel(2);
            let (done, bytes) = tokio::join!(driver.read_volumes(id, sink), collect(received));
            done.map(|()| read(&bytes))
        };
        assert_eq!(read_all(spec.id).await.unwrap_err().code, DriverErrorCode::NoSuchTenant);
        driver.write_volumes(spec.id, LIMIT, pieces(write(&everything()))).await.unwrap();
        assert_eq!(read_all(spec.id).await.unwrap(), everything());
        let again = driver.write_volumes(spec.id, LIMIT, pieces(write(&everything()))).await;
        assert_eq!(again.unwrap_err().code, DriverErrorCode::NameTaken);

        // The tenant starts on them, and may be read while it is frozen.
        spec.limits.disk_bytes = LIMIT;
        driver.ensure(&spec).await.unwrap();
        driver.start(&spec).await.unwrap();
        driver.freeze(spec.id).await.unwrap();
        let frozen = read_all(spec.id).await.unwrap();
        let status = driver.inspect(spec.id).await.unwrap().unwrap();
        assert_eq!(status.run, orchestrator::driver::RunState::Paused);
        let files = |entries: &[ArchiveEntry]| {
            let files = entries.iter().filter(|entry| entry.path.starts_with("files/"));
            files.cloned().collect::<Vec<_>>()
        };
        assert_eq!(files(&frozen), files(&everything()));
        assert!(frozen.iter().any(|entry| entry.path == "data/starts"), "the start is on them");
        let [containers, ..] = install.objects(None).await;
        assert_eq!(containers.len(), 1, "the work is removed: {containers:?}");
        driver.thaw(spec.id).await.unwrap();
        driver.remove(spec.id).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn on_the_engine_a_failed_import_leaves_nothing() {
    with_install(async |install| {
        let (driver, id) = (install.driver(), spec("acme", "").id);
        let tar = write(&everything());
        driver.write_volumes(id, LIMIT, broken(&tar)).await.unwrap_err();
        driver.write_volumes(id, LIMIT, pieces(b"no tar".repeat(1_000))).await.unwrap_err();
        let [containers, networks, volumes] = install.objects(None).await;
        assert!(
            containers.is_empty() && networks.is_empty() && volumes.is_empty(),
            "{containers:?} {networks:?} {volumes:?}"
        );
        // The id is free again.
        driver.write_volumes(id, LIMIT, pieces(tar)).await.unwrap();
        driver.remove(id).await.unwrap();
    })
    .await;
}

/// A process that dies in a transfer leaves its container, which must not hold the volumes.
#[tokio::test]
async fn on_the_engine_a_transfer_that_nobody_finished_holds_nothing_up() {
    with_install(async |install| {
        let (driver, id) = (install.driver(), spec("acme", "").id);
        let tar = write(&everything());
        driver.write_volumes(id, LIMIT, pieces(tar)).await.unwrap();
        let (sink, mut received) = mpsc::channel(1);
        {
            let reading = driver.read_volumes(id, sink);
            tokio::pin!(reading);
            tokio::select! {
                done = &mut reading => panic!("{done:?}"),
                piece = received.recv() => assert!(piece.unwrap().is_ok()),
            }
        }
        let [containers, ..] = install.objects(None).await;
        assert_eq!(containers.len(), 1, "the work is left");
        driver.remove(id).await.unwrap();
        let [containers, _, volumes] = install.objects(None).await;
        assert!(containers.is_empty() && volumes.is_empty());
    })
    .await;
}

/// A tar of several MiB, in far more pieces than wait between the engine and a reader.
fn large() -> Vec<u8> {
    let content = vec![5; 2 << 20];
    write(&[
        entry("data/", EntryType::Directory, 0o700, 1000),
        entry("files/", EntryType::Directory, 0o750, 1001),
        ArchiveEntry { content, ..entry("files/large", EntryType::Regular, 0o600, 1001) },
    ])
}

async fn whole(mut tar: VolumeStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = tar.next().await {
        bytes.extend(piece?);
    }
    Ok(bytes)
}

#[tokio::test(start_paused = true)]
async fn only_a_tenant_that_rests_is_exported_and_it_stays_as_it_is() {
    let (simulation, spec) = (Simulation::new(), spec("acme", ""));
    let running = simulation.controller(SHORT_DELAYS);
    let operations = &running.controller.operations;
    running.until(spec.id, |tenant| tenant.is_none()).await;
    operations.import_volumes(spec.id, LIMIT, pieces(large())).await.unwrap();
    assert_eq!(whole(operations.export_volumes(spec.id).await.unwrap()).await.unwrap(), large());
    running.run(&spec).await;
    running.until_phase(spec.id, Phase::Ready).await;
    let refused = operations.export_volumes(spec.id).await.err().unwrap();
    assert_eq!(refused.code, DriverErrorCode::TenantAwake);
    for phase in [Phase::Frozen, Phase::Sleeping] {
        running.until_phase(spec.id, phase).await;
        let calls = simulation.calls(spec.id).len();
        let tar = whole(operations.export_volumes(spec.id).await.unwrap()).await.unwrap();
        assert_eq!(tar, large(), "{phase:?}");
        assert_eq!(simulation.calls(spec.id)[calls..], ["read"]);
        let shown = running.controller.store.feed().unwrap().get(&spec.id).unwrap();
        assert_eq!(shown.phase, phase);
    }
}

/// A process that ran in between may have changed the files.
#[tokio::test(start_paused = true)]
async fn the_last_start_tells_whether_a_tenant_ran() {
    let (simulation, spec) = (Simulation::new(), spec("acme", ""));
    let running = simulation.controller(SHORT_DELAYS);
    let operations = &running.controller.operations;
    running.until(spec.id, |tenant| tenant.is_none()).await;
    let unknown = operations.last_start(spec.id).await.err().unwrap();
    assert_eq!(unknown.code, DriverErrorCode::NoSuchTenant);
    running.run(&spec).await;
    let mut first = None;
    for (phase, has_ended, is_running) in
        [(Phase::Ready, false, true), (Phase::Frozen, false, false), (Phase::Sleeping, true, false)]
    {
        running.until_phase(spec.id, phase).await;
        let start = operations.last_start(spec.id).await.unwrap();
        assert_eq!((start.has_ended, start.is_running), (has_ended, is_running), "{phase:?}");
        let facts = (start.container_id, start.at.unwrap());
        assert_eq!(first.get_or_insert(facts.clone()), &facts, "{phase:?}");
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    let again = protocol::orchestrator::ApplyRequest { restart: true, ..apply(&spec, true) };
    operations.apply(again).await.unwrap();
    running.until_phase(spec.id, Phase::Sleeping).await;
    let second = operations.last_start(spec.id).await.unwrap();
    assert_ne!(second.at, first.map(|(_, at)| at));
}

#[tokio::test(start_paused = true)]
async fn a_start_waits_for_the_end_of_an_export() {
    let (simulation, spec) = (Simulation::new(), spec("acme", ""));
    let running = simulation.controller(SHORT_DELAYS);
    let operations = running.controller.operations.clone();
    running.until(spec.id, |tenant| tenant.is_none()).await;
    operations.import_volumes(spec.id, LIMIT, pieces(large())).await.unwrap();
    let tar = operations.export_volumes(spec.id).await.unwrap();
    let starting = tokio::spawn({
        let (operations, spec) = (operations.clone(), spec.clone());
        async move { operations.apply(apply(&spec, true)).await }
    });
    // Far longer than a start takes, and less than a reader may take nothing.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!starting.is_finished());
    assert_eq!(whole(tar).await.unwrap(), large());
    starting.await.unwrap().unwrap();
    assert_eq!(simulation.calls(spec.id), ["write", "read", "start"]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_leaves_or_takes_nothing_holds_nobody_up() {
    let (simulation, spec) = (Simulation::new(), spec("acme", ""));
    let running = simulation.controller(SHORT_DELAYS);
    let operations = &running.controller.operations;
    running.until(spec.id, |tenant| tenant.is_none()).await;
    operations.import_volumes(spec.id, LIMIT, pieces(large())).await.unwrap();
    drop(operations.export_volumes(spec.id).await.unwrap());
    let idle = operations.export_volumes(spec.id).await.unwrap();
    operations.apply(apply(&spec, true)).await.unwrap();
    assert!(whole(idle).await.is_err(), "a part must not pass for the whole");
}

#[tokio::test(start_paused = true)]
async fn a_tenant_has_one_transfer_and_takes_none_from_others() {
    let (simulation, acme) = (Simulation::new(), spec("acme", ""));
    let globex = crate::support::spec("globex", "");
    let running = simulation.controller(SHORT_DELAYS);
    let operations = running.controller.operations.clone();
    running.until(acme.id, |tenant| tenant.is_none()).await;
    for id in [acme.id, globex.id] {
        operations.import_volumes(id, LIMIT, pieces(large())).await.unwrap();
    }
    let first = operations.export_volumes(acme.id).await.unwrap();
    let second = tokio::spawn({
        let (operations, id) = (operations.clone(), acme.id);
        async move { operations.export_volumes(id).await.err().unwrap() }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!second.is_finished());
    let other = operations.export_volumes(globex.id).await.unwrap();
    assert!(!second.is_finished(), "the other tenant did not wait for it");
    assert_eq!(whole(other).await.unwrap(), large());
    assert_eq!(second.await.unwrap().code, DriverErrorCode::EngineRefused);
    assert_eq!(whole(first).await.unwrap(), large());
    assert_eq!(whole(operations.export_volumes(acme.id).await.unwrap()).await.unwrap(), large());
}

#[tokio::test(start_paused = true)]
async fn a_delete_ends_transfers() {
    let (simulation, spec) = (Simulation::new(), spec("acme", ""));
    let running = simulation.controller(SHORT_DELAYS);
    let operations = &running.controller.operations;
    running.until(spec.id, |tenant| tenant.is_none()).await;
    operations.import_volumes(spec.id, LIMIT, pieces(large())).await.unwrap();
    let tar = operations.export_volumes(spec.id).await.unwrap();
    operations.delete(spec.id).await.unwrap();
    assert!(whole(tar).await.is_err());
    assert!(!simulation.engine.has_volumes(spec.id));
    let late = operations.import_volumes(spec.id, LIMIT, pieces(large())).await.unwrap_err();
    assert_eq!(late.code, DriverErrorCode::TenantDeleted);

    // This import waits for its writer.
    let other = crate::support::spec("globex", "");
    let importing = tokio::spawn({
        let operations = running.controller.operations.clone();
        let silent = stream::iter([Ok(Bytes::from(large()))]).chain(stream::pending()).boxed();
        async move { operations.import_volumes(other.id, LIMIT, silent).await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    operations.delete(other.id).await.unwrap();
    assert!(importing.await.unwrap().is_err());
    assert!(!simulation.engine.has_volumes(other.id));
}

#[tokio::test(start_paused = true)]
async fn an_import_whose_writer_is_silent_ends() {
    let (simulation, spec) = (Simulation::new(), spec("acme", ""));
    let running = simulation.controller(SHORT_DELAYS);
    let operations = &running.controller.operations;
    for tar in [stream::pending().boxed(), broken(&large())] {
        operations.import_volumes(spec.id, LIMIT, tar).await.unwrap_err();
        assert!(!simulation.engine.has_volumes(spec.id));
    }
    assert_eq!(simulation.calls(spec.id), [""; 0]);
}

#[tokio::test]
async fn over_http_a_tar_goes_in_and_comes_out_and_a_cut_one_does_neither() {
    let server = Server::start().await;
    let path = |id: TenantId, query: &str| format!("/v1/tenants/{id}/volumes{query}");
    let id = spec("acme", "").id;
    let unknown = server.client().stream(&path(id, ""), PATIENCE).await.err().unwrap();
    assert_eq!(unknown.code(), Some("no_such_tenant"));
    let body = |tar: VolumeStream| Body::from_stream(tar);
    let query = "?limit_bytes=1000000";
    let cut = server.client().upload(&path(id, query), body(broken(&large())), PATIENCE).await;
    assert!(cut.is_err());
    let unbounded = server.client().upload(&path(id, ""), Body::empty(), PATIENCE).await;
    assert_eq!(unbounded.unwrap_err().code(), Some("invalid_query"));
    let whole_tar = body(pieces(large()));
    server.client().upload(&path(id, query), whole_tar, PATIENCE).await.unwrap();
    assert_eq!(server.engine.calls(), [format!("write {id}")]);
    let exported = server.client().stream(&path(id, ""), PATIENCE).await.unwrap();
    assert_eq!(exported.headers()["content-type"], "application/x-tar");
    let exported = exported.into_body().collect().await.unwrap().to_bytes();
    assert!(exported == large());
    let awake = server.run_tenant().await;
    let refused = server.client().stream(&path(awake, ""), PATIENCE).await.err().unwrap();
    assert_eq!(refused.code(), Some("tenant_awake"));
}
