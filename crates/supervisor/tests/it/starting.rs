//! Five services start, each with its own sockets, and core-back receives a notification when all
//! accept.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};

use nix::sys::signal::Signal;

use crate::stage::Stage;

#[test]
fn core_back_hears_that_all_five_are_ready() {
    let mut stage = Stage::play("core-back:hear");
    stage.line(|line| line == "[core-back] heard all-ready");
}

#[test]
fn nothing_is_said_while_one_is_not() {
    let mut stage = Stage::play("core-back:hear platform-back:silent core-front:report");
    stage.line(|line| line == "[core-front] reported");
    stage.signal(Signal::SIGTERM);
    let (_, lines) = stage.end();
    assert!(!lines.iter().any(|line| line.contains("heard")), "{lines:#?}");
}

#[test]
fn each_gets_its_listeners_and_the_link_and_nothing_else() {
    for (service, fds) in [
        ("edge", "[0, 1, 2, 3, 4, 5]"),
        ("core-back", "[0, 1, 2, 3, 4, 5, 6, 7]"),
        ("core-front", "[0, 1, 2, 3, 4]"),
        ("platform-front", "[0, 1, 2, 3, 4]"),
    ] {
        let mut stage = Stage::play(&format!("{service}:report"));
        stage.line(|line| line == format!("[{service}] fds {fds}"));
    }
}

#[test]
fn unix_sockets_belong_to_the_core_and_appear_complete() {
    let mut stage = Stage::play("core-back:hear");
    stage.line(|line| line == "[core-back] heard all-ready");
    for (name, group) in [
        ("core/back.sock", 1000),
        ("core/front.sock", 1000),
        ("core/busy.sock", 1000),
        ("core/files.sock", 1000),
        ("agent/busy.sock", 1001),
        ("ingress/edge.sock", 1000),
        ("ingress/busy.sock", 1000),
    ] {
        let socket = std::fs::symlink_metadata(stage.directory.join(name)).unwrap();
        assert!(socket.file_type().is_socket(), "{name}");
        assert_eq!((socket.uid(), socket.gid()), (1000, group), "{name}");
        assert_eq!(socket.permissions().mode() & 0o777, 0o660, "{name}");
    }
    let left: Vec<_> = std::fs::read_dir(stage.directory.join("ingress")).unwrap().collect();
    assert_eq!(left.len(), 2, "no temporary name stays: {left:?}");
}

#[test]
fn without_an_ingress_nobody_is_told_and_nothing_is_missing() {
    let set = Stage::prepare();
    std::fs::remove_dir(set.directory.join("ingress")).unwrap();
    let mut stage = set.start("core-back:report");
    stage.line(|line| line == "[core-back] fds [0, 1, 2, 3, 4, 5, 6]");
}

#[test]
fn a_stale_socket_is_replaced() {
    let set = Stage::prepare();
    for name in ["ingress/edge.sock", "ingress/edge.new"] {
        let stale = set.directory.join(name);
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        std::os::unix::fs::lchown(&stale, Some(1000), Some(1000)).unwrap();
    }
    let mut stage = set.start("core-back:hear");
    stage.line(|line| line == "[core-back] heard all-ready");
}

#[test]
fn a_program_that_is_missing_is_named() {
    let set = Stage::prepare();
    std::fs::remove_file(set.directory.join("programs/platform")).unwrap();
    let (code, lines) = set.start("").end();
    assert_eq!(code, Some(1));
    let told = lines.iter().any(|line| {
        line == "[supervisor] cannot start: platform-front: No such file or directory (os error 2)"
    });
    assert!(told, "{lines:#?}");
}
