//! `cial tenants export` and `cial tenants import`: what is written, what is sent, and when a file is not whole.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use protocol::transfer::END_MARK;
use serde_json::json;

use crate::support::{Cial, Server, json as json_response, problem};

/// A response that says nothing about its length, as an export is.
fn archive(bytes: &[u8]) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/zstd\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    let mut response = head.as_bytes().to_vec();
    for piece in bytes.chunks(7) {
        response.extend(format!("{:x}\r\n", piece.len()).bytes());
        response.extend(piece);
        response.extend(b"\r\n");
    }
    response.extend(b"0\r\n\r\n");
    response
}

fn whole() -> Vec<u8> {
    [b"not text: \xff\x00 and more".as_slice(), &END_MARK].concat()
}

#[test]
fn an_export_goes_to_a_pipe_or_a_file() {
    let server = Server::always(archive(&whole()));
    let cial = Cial::at(&server);
    let output = cial.command(&["tenants", "export", "acme"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, whole());
    assert_eq!(server.requests(), ["GET /v1/tenants/acme/export"]);
    let file = cial.home().join("acme.tar.zst");
    let shown = file.to_str().unwrap();
    let printed = cial.run(&["tenants", "export", "acme", "--file", shown]);
    assert!(printed.contains("exit code 0"), "{printed}");
    assert_eq!(std::fs::read(&file).unwrap(), whole());
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o600, "others read no tenant's data");
    let again = cial.run(&["tenants", "export", "acme", "--file", shown]);
    assert!(again.contains("exit code 1") && again.contains("exists"), "{again}");
    assert_eq!(server.requests().len(), 2, "nothing is asked for a file that is there");
}

/// The transport says that all is well.
#[test]
fn an_export_without_its_end_is_a_failure_and_leaves_no_file() {
    let part = &whole()[..whole().len() - 1];
    let server = Server::always(archive(part));
    let cial = Cial::at(&server);
    let file = cial.home().join("acme.tar.zst");
    let printed = cial.run(&["tenants", "export", "acme", "--file", file.to_str().unwrap()]);
    assert!(printed.contains("exit code 1"), "{printed}");
    assert!(printed.contains("ended the export before its end"), "{printed}");
    let left: Vec<_> = std::fs::read_dir(cial.home())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.contains("acme"))
        .collect();
    assert_eq!(left, [""; 0]);
}

#[test]
fn a_terminal_gets_no_archive() {
    let server = Server::always(archive(&whole()));
    let printed = Cial::at(&server).run_on_terminal(&["tenants", "export", "acme"], "");
    assert!(printed.contains("an export is no text for a terminal"), "{printed}");
    assert_eq!(server.requests(), [""; 0]);
}

#[test]
fn a_tenant_that_runs_is_stopped_and_started_again_on_request() {
    let state = |state: &str| json_response("200 OK", &json!({ "slug": "acme", "state": state }));
    let server = Server::new(move |number, request| match number {
        0 => state("running"),
        1 => state("running"),
        _ if request.contains("/export") => archive(&whole()),
        _ => state("stopped"),
    });
    let cial = Cial::at(&server);
    let output = cial.command(&["tenants", "export", "acme", "--stop"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, whole());
    assert_eq!(
        server.requests(),
        [
            "GET /v1/tenants/acme",
            "POST /v1/tenants/acme/stop",
            "GET /v1/tenants/acme",
            "GET /v1/tenants/acme/export",
            "POST /v1/tenants/acme/start",
        ]
    );
    let rests = Server::new(move |_, request| match request.contains("/export") {
        true => archive(&whole()),
        false => state("sleeping"),
    });
    let output = Cial::at(&rests).command(&["tenants", "export", "acme", "--stop"]).output();
    assert!(output.unwrap().status.success());
    assert_eq!(rests.requests(), ["GET /v1/tenants/acme", "GET /v1/tenants/acme/export"]);
}

#[test]
fn a_file_is_imported_as_it_is() {
    let created = json!({ "slug": "acme2", "name": "Acme", "state": "stopped" });
    let server = Server::always(json_response("201 Created", &created));
    let cial = Cial::at(&server).file("acme.tar.zst", "the archive");
    let file = cial.home().join("acme.tar.zst");
    let printed = cial.run(&["tenants", "import", file.to_str().unwrap(), "--as", "acme2"]);
    assert!(printed.contains("exit code 0"), "{printed}");
    assert!(printed.contains("cial tenants start acme2"), "{printed}");
    assert_eq!(server.requests(), ["POST /v1/imports/acme2"]);
    let request = &server.texts()[0];
    assert!(request.contains("content-type: application/zstd"), "{request}");
    assert!(request.ends_with("\r\n\r\nthe archive"), "{request}");
    let missing = cial.run(&["tenants", "import", "missing.zst", "--as", "acme2"]);
    assert!(missing.contains("cannot read missing.zst"), "{missing}");
    let refusal =
        problem("422 Unprocessable Entity", "", "archive_unsafe", "The entry is bad.", json!([]));
    let server = Server::always(refusal);
    let cial = Cial::at(&server).file("bad.tar.zst", "x");
    let file = cial.home().join("bad.tar.zst");
    let printed = cial.run(&["tenants", "import", file.to_str().unwrap(), "--as", "b2"]);
    assert!(printed.contains("exit code 1") && printed.contains("The entry is bad"), "{printed}");
}

#[test]
fn an_archive_is_read_from_a_pipe() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut request, mut byte) = (Vec::new(), [0]);
        // The last chunk of a body without a length.
        while !request.ends_with(b"0\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        let created = json_response("201 Created", &json!({ "slug": "b2", "state": "stopped" }));
        stream.write_all(&created).unwrap();
        String::from_utf8(request).unwrap()
    });
    let cial = Cial::new().server(&url).variable("CIAL_API_KEY", "cial_test");
    let printed = cial.run_with_input(&["tenants", "import", "-", "--as", "b2"], "piped archive");
    assert!(printed.contains("exit code 0"), "{printed}");
    let request = serving.join().unwrap();
    assert!(request.starts_with("POST /v1/imports/b2 "), "{request}");
    assert!(request.contains("piped archive"), "{request}");
}
