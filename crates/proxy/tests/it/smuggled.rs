//! Runs the table against the engine itself.

use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use proxy::Upstream;

use crate::harness::{Through, serve, settings};
use crate::smuggling::{Recorder, run};

#[test]
fn no_request_is_smuggled_through_the_engine() {
    let path = std::env::temp_dir().join(format!("proxy-smuggled-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let upstream = Recorder::new(move || listener.accept().unwrap().0, "");
    let policy = Through {
        upstream: Arc::new(Upstream::unix(&path)),
        busy: Arc::default(),
        faults: Arc::default(),
    };
    let (address, stop, thread) = serve(policy, settings());
    run(address, "a", &upstream);
    stop.cancel();
    thread.join().unwrap();
    std::fs::remove_file(path).unwrap();
}

/// Copies bytes unchanged and interprets none of them.
fn careless(path: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), UnixStream::connect(&path).unwrap());
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut server, &mut client);
                let _ = client.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

#[test]
fn the_smuggling_table_detects_a_proxy_without_checks() {
    let path = std::env::temp_dir().join(format!("proxy-careless-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let upstream = Recorder::new(move || listener.accept().unwrap().0, "");
    let address = careless(path.clone());
    let found = std::panic::catch_unwind(|| run(address, "a", &upstream));
    std::fs::remove_file(path).unwrap();
    assert!(found.is_err(), "all of it passed");
}
